//! A lab: a scenario's world that stays up, to type commands in.
//!
//! [`keeper`] starts the background process, which builds the world as a run does. Then `serve` answers requests at a Unix socket beside its
//! state file: one JSON request a line, one JSON answer a line ([`talk`]). Commands enter the world by file descriptors of its namespaces that
//! the keeper hands out ([`exec`]), so their terminal and signals are those of who typed them; they are in the world's PID namespace, and end with
//! it at the latest. [`capture`] shows packets, [`measured`] follows a handover, [`entry`] checks what shall happen by the rules of scenario files,
//! [`show`] says in words what there is. PURE: `entry`, `show`.

pub mod capture;
pub mod entry;
pub mod exec;
pub mod keeper;
pub mod measured;
mod serve;
pub mod show;
pub mod talk;

use std::path::Path;

use crate::exit::Failure;
use crate::scenario::source::nearest;
use crate::state::{self, Lab};

/// The lab called `name`, or the only one.
pub fn find(name: Option<&str>) -> Result<Lab, Failure> {
    choose(state::labs(&state::folder()?), name)
}

fn choose(mut labs: Vec<Lab>, name: Option<&str>) -> Result<Lab, Failure> {
    let names = labs.iter().map(|lab| lab.name.as_str()).collect::<Vec<_>>();
    let chosen = match name {
        Some(name) => names.iter().position(|known| *known == name).ok_or_else(|| {
            let hint = match (nearest(name, names.iter().copied()), names.is_empty()) {
                (Some(near), _) => format!("did you mean {near}?"),
                (None, true) => START.to_owned(),
                (None, false) => format!("there are {}", names.join(", ")),
            };
            format!("no lab called {name} is up: {hint}")
        }),
        None => match names.as_slice() {
            [] => Err(format!("no lab is up: {START}")),
            [_] => Ok(0),
            _ => Err(format!("several labs are up, say which with --lab: {}", names.join(", "))),
        },
    };
    chosen.map(|index| labs.swap_remove(index)).map_err(Failure::usage)
}

const START: &str = "start one with `harness up FILE`, for example `harness up handover`";

/// A name that a lab can have.
pub fn check_name(name: &str) -> Result<String, String> {
    let fits = |c: char| c.is_ascii_alphanumeric() || c == '-' || c == '_';
    if name.is_empty() || name.len() > 64 || !name.chars().all(fits) {
        return Err("a lab's name has letters, digits, `-` and `_`, at most 64".to_owned());
    }
    Ok(name.to_owned())
}

/// A path to `file` that is short enough for a socket's address, as long as the folder that is returned beside it is open.
fn short(file: &Path) -> std::io::Result<(std::fs::File, std::path::PathBuf)> {
    use std::os::fd::AsRawFd;
    let (folder, name) = (file.parent().unwrap_or(Path::new("/")), file.file_name().unwrap_or_default());
    let folder = std::fs::File::open(folder)?;
    let path = Path::new("/proc/self/fd").join(folder.as_raw_fd().to_string()).join(name);
    Ok((folder, path))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lab(name: &str) -> Lab {
        let keeper = state::Process::of(std::process::id() as i32).unwrap();
        Lab { name: name.into(), folder: "/f".into(), socket: "/s".into(), keeper }
    }

    #[test]
    fn one_lab_needs_no_name_and_an_error_says_what_to_do() {
        let chosen = |labs: &[&str], name| {
            choose(labs.iter().map(|name| lab(name)).collect(), name)
                .map(|lab| lab.name)
                .map_err(|e| e.message)
        };
        assert_eq!(chosen(&["rs-s"], None).unwrap(), "rs-s");
        assert_eq!(chosen(&["a", "b"], Some("b")).unwrap(), "b");
        assert!(chosen(&[], None).unwrap_err().contains("harness up FILE"));
        assert!(chosen(&[], Some("x")).unwrap_err().contains("harness up FILE"));
        assert!(chosen(&["a", "b"], None).unwrap_err().contains("--lab: a, b"));
        assert!(chosen(&["handover"], Some("handovr")).unwrap_err().contains("did you mean handover?"));
    }
}
