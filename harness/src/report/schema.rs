//! The JSON schema of `report.json`, from the types that write it. `docs/report.schema.json` is what it says, published.

use serde_json::Value as Json;

use super::Report;

/// The schema, after JSON Schema 2020-12.
pub fn schema() -> Json {
    schemars::schema_for!(Report).to_value()
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::path::Path;

    use super::*;

    fn document() -> std::path::PathBuf {
        Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/report.schema.json")
    }

    /// What is published is what is written. `UPDATE_SCHEMA=1` writes it anew.
    #[test]
    fn the_published_schema_is_current() {
        let current = serde_json::to_string_pretty(&schema()).unwrap() + "\n";
        if std::env::var_os("UPDATE_SCHEMA").is_some() {
            fs::write(document(), &current).unwrap();
        }
        let published = fs::read_to_string(document()).unwrap_or_default();
        assert!(
            published == current,
            "docs/report.schema.json is not current: run this test with UPDATE_SCHEMA=1"
        );
    }

    /// A report of a real run is valid, and the schema refuses what is none.
    #[test]
    fn a_real_report_is_valid_after_it() {
        let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/page/handover/report.json");
        let mut report: Json = serde_json::from_str(&fs::read_to_string(file).unwrap()).unwrap();
        let validator = jsonschema::validator_for(&schema()).unwrap();
        let wrong =
            |report: &Json| validator.iter_errors(report).map(|error| error.to_string()).collect::<Vec<_>>();
        assert_eq!(wrong(&report), Vec::<String>::new());
        assert_eq!(
            wrong(&serde_json::to_value(super::super::tests::report()).unwrap()),
            Vec::<String>::new()
        );
        report["exit"] = "one".into();
        assert_eq!(wrong(&report).len(), 1);
        report.as_object_mut().unwrap().remove("verdict");
        assert_eq!(wrong(&report).len(), 2);
    }
}
