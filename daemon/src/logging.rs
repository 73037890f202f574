//! Logs go to stderr; `NTM_LOG` sets the level, as in `NTM_LOG=debug` or `NTM_LOG=ntm_relay=trace,info`.

use std::env::{self, VarError};
use std::io::IsTerminal;

use tracing_subscriber::EnvFilter;

/// The variable that sets the level.
pub const VARIABLE: &str = "NTM_LOG";

/// The DNS library reports every name without a record, and every question served, in the levels above: here that is everyday life.
const DEFAULT: &str = "info,hickory_resolver=error,hickory_server=warn";

/// Starts logging. `Err` holds a sentence for people: the variable's value is no filter.
pub fn init() -> Result<(), String> {
    let filter = filter(env::var(VARIABLE))?;
    // A second call in one process keeps the first subscriber; nothing is lost by that.
    let _ = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_ansi(std::io::stderr().is_terminal())
        .with_writer(std::io::stderr)
        .try_init();
    Ok(())
}

fn filter(value: Result<String, VarError>) -> Result<EnvFilter, String> {
    let text = match value {
        Ok(text) if !text.is_empty() => text,
        Ok(_) | Err(VarError::NotPresent) => DEFAULT.to_owned(),
        Err(VarError::NotUnicode(_)) => {
            return Err(format!("{VARIABLE} is not UTF-8: unset it, or give a level"));
        }
    };
    EnvFilter::try_new(&text).map_err(|e| {
        format!("{VARIABLE}={text} is no filter of logs ({e}): try info, debug or ntm_relay=trace")
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn info_is_the_default() {
        for value in [Err(VarError::NotPresent), Ok(String::new())] {
            let shown = filter(value).expect("a filter").to_string();
            assert!(shown.contains("info") && shown.contains("hickory_resolver=error"), "{shown}");
        }
        assert_eq!(filter(Ok("debug".into())).expect("a filter").to_string(), "debug");
    }

    #[test]
    fn a_bad_filter_is_refused() {
        insta::assert_snapshot!(filter(Ok("ntm=loud".into())).unwrap_err(), @r#"NTM_LOG=ntm=loud is no filter of logs (error parsing level filter: expected one of "off", "error", "warn", "info", "debug", "trace", or a number 0-5): try info, debug or ntm_relay=trace"#);
    }
}
