//! The JSON schema of scenario files, by which editors complete keys, show what they mean, and mark what is none. What belongs together across
//! tables only `harness check` knows. `docs/scenario.schema.json` is what this says, published.

use serde_json::{Map, Value as Json, json};

use super::{Key, Kind, NEEDED, Section, sections, tables};

/// The schema, after JSON Schema 2020-12.
pub fn schema() -> Json {
    let definitions: Map<String, Json> = sections()
        .into_iter()
        // What a node is depends on its role.
        .filter(|section| section.id != tables::NODE.id)
        .map(|section| (section.id.to_owned(), object(section, section.keys.iter())))
        .collect();
    let mut out = json!({
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "A scenario of the NTMobile testbed",
        "$ref": format!("#/$defs/{}", tables::FILE.id),
    });
    out["$defs"] = definitions.into();
    out
}

fn reference(section: &Section) -> Json {
    json!({ "$ref": format!("#/$defs/{}", section.id) })
}

/// A table with these of a section's keys.
fn object<'a>(section: &Section, keys: impl Iterator<Item = &'a Key>) -> Json {
    let inherited = section.extends.iter().flat_map(|(base, _)| base.keys);
    let (mut properties, mut required) = (Map::new(), Vec::<&str>::new());
    for key in inherited.chain(keys) {
        let mut described = takes(&key.kind);
        described["description"] = format!("{}; default: {}", key.about, key.default).into();
        if key.default == NEEDED {
            described["description"] = key.about.into();
            required.extend(key.names);
        }
        properties.extend(key.names.iter().map(|name| ((*name).to_owned(), described.clone())));
    }
    let mut out = json!({ "type": "object", "required": required, "additionalProperties": false });
    out["properties"] = properties.into();
    if !section.one_of.is_empty() {
        let one = section.one_of.iter().map(|key| json!({ "required": [key] }));
        out["oneOf"] = one.collect();
    }
    out
}

/// What stands at a key.
fn takes(kind: &Kind) -> Json {
    let matching = |pattern: &str| json!({ "type": "string", "pattern": pattern });
    let quantity = |units: &str| matching(&format!("^[0-9.]+ *({units})$"));
    let text = || json!({ "type": "string" });
    let list = |of: Json| json!({ "type": "array", "items": of });
    let or = |a: Json, b: Json| json!({ "anyOf": [a, b] });
    let words = |words: &[&str]| json!({ "enum": words });
    match kind {
        Kind::Text | Kind::Expression | Kind::Moment | Kind::Place | Kind::Name(_) | Kind::DnsName => text(),
        Kind::Texts | Kind::TextOrTexts | Kind::Quantities | Kind::Names(_) => or(text(), list(text())),
        Kind::Words(all) => words(&all()),
        Kind::WordsOrTable(all, section) => or(words(&all()), reference(section)),
        Kind::Integer(least, most) => json!({ "type": "integer", "minimum": least, "maximum": most }),
        Kind::Flag => json!({ "type": "boolean" }),
        Kind::Time | Kind::TimeFrom(_) => quantity("ns|us|ms|s|min"),
        Kind::Rate => quantity("bit|kbit|mbit|gbit"),
        Kind::Share => quantity("%"),
        Kind::Size | Kind::SizeWithin(..) => quantity("B|kB|MB|GB"),
        Kind::Address => json!({ "type": "string", "format": "ipv4" }),
        Kind::Network => matching("^[0-9]+(\\.[0-9]+){3}/[0-9]+$"),
        Kind::Site6 => matching("^[0-9a-f:]+/48$"),
        Kind::Table(section) => reference(section),
        Kind::Tables(section) => named(reference(section)),
        Kind::Nodes(section, interface) => named(node(section, interface)),
        Kind::List(section) => list(reference(section)),
        Kind::Paths => json!({ "type": "object" }),
        Kind::Values => json!({ "type": "array" }),
        Kind::Rows => list(list(json!({ "type": ["string", "number"] }))),
    }
}

/// A table of what has names.
fn named(each: Json) -> Json {
    json!({ "type": "object", "propertyNames": { "pattern": "^[a-z][a-z0-9_]{0,31}$" }, "additionalProperties": each })
}

/// A node of any role: the keys of its role, and either those of its one interface or its interfaces by name.
fn node(section: &'static Section, interface: &'static Section) -> Json {
    let roles = section.keys.iter().find_map(|key| key.kind.words().filter(|_| key.names == ["role"]));
    let of_role = |role: &'static str| {
        let takes_it = move |key: &&Key| key.of.is_empty() || key.of.contains(&role);
        let own = || section.keys.iter().filter(takes_it);
        let single = object(section, own().chain(interface.keys));
        let mut several = object(section, own());
        several["additionalProperties"] = reference(interface);
        [single, several].map(|mut node| {
            node["properties"]["role"] = json!({ "const": role });
            node
        })
    };
    json!({ "anyOf": roles.unwrap_or_default().into_iter().flat_map(of_role).collect::<Vec<_>>() })
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::path::{Path, PathBuf};

    use super::*;

    fn project() -> PathBuf {
        Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
    }

    /// What is published is what is declared. `UPDATE_SCHEMA=1` writes it anew.
    #[test]
    fn the_published_schema_is_current() {
        let current = serde_json::to_string_pretty(&schema()).unwrap() + "\n";
        let published = project().join("docs/scenario.schema.json");
        if std::env::var_os("UPDATE_SCHEMA").is_some() {
            fs::write(&published, &current).unwrap();
        }
        assert!(
            fs::read_to_string(published).unwrap_or_default() == current,
            "docs/scenario.schema.json is not current: run this test with UPDATE_SCHEMA=1"
        );
    }

    fn wrong(text: &str) -> Vec<String> {
        let value: Json = toml::from_str(text).unwrap();
        let validator = jsonschema::validator_for(&schema()).unwrap();
        validator.iter_errors(&value).map(|error| format!("{}: {error}", error.instance_path())).collect()
    }

    #[test]
    fn every_scenario_of_the_project_is_valid_after_it() {
        let files = fs::read_dir(project().join("scenarios")).unwrap().map(|entry| entry.unwrap().path());
        let mut seen = 0;
        for file in files.filter(|file| file.extension().is_some_and(|extension| extension == "toml")) {
            let found = wrong(&fs::read_to_string(&file).unwrap());
            assert!(found.is_empty(), "{}: {found:#?}", file.display());
            seen += 1;
        }
        assert!(seen > 20, "only {seen} scenarios were found");
    }

    #[test]
    fn what_is_wrong_is_refused() {
        let good = "schema = 1\nname = \"a\"\nabout = \"b\"\n";
        assert_eq!(wrong(good), Vec::<String>::new());
        for more in [
            "colour = \"red\"\n",
            "timeout = 5\n",
            "timeout = \"5 parsecs\"\n",
            "seed = -1\n",
            "[node.a]\nrole = \"wizard\"\nat = \"internet\"\n",
            "[node.a]\nrole = \"general\"\nat = \"internet\"\nvips = \"198.18.0.0/16\"\n",
            "[node.a]\nrole = \"coordinator\"\nat = \"internet\"\nzone = \"a.test\"\n",
            "[node.a]\nrole = \"general\"\neth0 = { on = \"internet\" }\n",
            "[node.Ab]\nrole = \"general\"\nat = \"internet\"\n",
            "[router.r]\nnat = \"fullcone\"\n",
            "[router.r]\nnat = { preset = \"symmetric\", timeouts = { sctp = \"1s\" } }\n",
            "[[flow]]\nid = \"f\"\n",
            "[[flow]]\nid = \"f\"\nping = { from = \"a\" }\n",
            "[[flow]]\nid = \"f\"\nping = { from = \"a\", to = \"b\" }\nexec = { node = \"a\", command = \"c\" }\n",
            "[[expect]]\nfail = \"f\"\n",
        ] {
            assert!(!wrong(&[good, more].concat()).is_empty(), "{more}");
        }
    }
}
