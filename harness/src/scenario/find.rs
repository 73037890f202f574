//! Where scenario files are.

use std::path::{Path, PathBuf};

use super::source::{Source, nearest};

/// The folder of the project's scenarios: `scenarios/` here or in a folder above, else beside the sources this was built from.
pub fn folder() -> Option<PathBuf> {
    let here = std::env::current_dir().ok();
    let above = here.iter().flat_map(|here| here.ancestors()).map(|folder| folder.join("scenarios"));
    let built = Path::new(env!("CARGO_MANIFEST_DIR")).join("../scenarios");
    above.chain([built]).find(|folder| folder.is_dir())
}

/// The scenario files of `folder`, sorted.
pub fn all(folder: &Path) -> Vec<PathBuf> {
    let Ok(entries) = std::fs::read_dir(folder) else { return Vec::new() };
    let mut files: Vec<PathBuf> = entries
        .filter_map(|entry| Some(entry.ok()?.path()))
        .filter(|path| path.extension().is_some_and(|extension| extension == "toml"))
        .collect();
    files.sort();
    files
}

/// Reads the file that `name` means: a path, or the name of a file in `scenarios/`, with or without `.toml`.
pub fn open(name: &Path) -> Result<Source, String> {
    let shown = name.display();
    let mut candidates = vec![name.to_owned()];
    if name.components().count() == 1
        && let Some(folder) = folder()
    {
        candidates.push(folder.join(name));
        candidates.push(folder.join(name).with_extension("toml"));
    }
    for path in &candidates {
        if !path.is_file() {
            continue;
        }
        return match std::fs::read_to_string(path) {
            Ok(text) => Ok(Source { name: path.display().to_string(), text }),
            Err(error) => Err(format!("{} cannot be read: {error}\n", path.display())),
        };
    }
    let known: Vec<String> = folder()
        .iter()
        .flat_map(|folder| all(folder))
        .filter_map(|path| Some(path.file_name()?.to_str()?.to_owned()))
        .collect();
    let wanted = name.file_name().and_then(|name| name.to_str()).unwrap_or_default();
    let hint = match nearest(wanted, known.iter().map(String::as_str)) {
        Some(near) => format!("did you mean {near}?"),
        None if known.is_empty() => "no folder `scenarios` was found here or above".to_owned(),
        None => format!("there are: {}", known.join(", ")),
    };
    Err(format!("there is no scenario {shown}: {hint}\n"))
}
