//! Names that people write for values, with errors that name the nearest.

use thiserror::Error;

/// A name that stands for no value.
#[derive(Clone, Debug, Error, PartialEq, Eq)]
#[error("'{given}' is no {what}: did you mean '{nearest}'? There are {options}")]
pub struct UnknownName {
    given: String,
    what: &'static str,
    nearest: &'static str,
    options: String,
}

/// The value that `given` names among `options`, none of which may be empty; `what` says in the error what is looked for.
pub(crate) fn choose<T: Copy>(
    what: &'static str,
    given: &str,
    options: &[(&'static str, T)],
) -> Result<T, UnknownName> {
    if let Some((_, value)) = options.iter().find(|(name, _)| *name == given) {
        return Ok(*value);
    }
    // The first of equals, so that the message is always the same.
    let nearest = options.iter().map(|(name, _)| *name).fold(("", f64::MIN), |best, name| {
        let likeness = strsim::jaro_winkler(&given.to_ascii_lowercase(), name);
        if likeness > best.1 { (name, likeness) } else { best }
    });
    Err(UnknownName {
        given: given.to_owned(),
        what,
        nearest: nearest.0,
        options: options.iter().map(|(name, _)| *name).collect::<Vec<_>>().join(", "),
    })
}

/// Gives an enum of plain values its names: `FromStr`, `Display`, serde as a string, and `ALL`.
macro_rules! named {
    ($type:ident, $what:literal, $($name:literal => $variant:ident),+ $(,)?) => {
        impl $type {
            /// Every value, with its name.
            pub const ALL: &'static [(&'static str, Self)] = &[$(($name, Self::$variant)),+];

            /// The name that people write.
            pub fn name(self) -> &'static str {
                match self { $(Self::$variant => $name),+ }
            }
        }

        impl std::str::FromStr for $type {
            type Err = $crate::names::UnknownName;

            fn from_str(text: &str) -> Result<Self, Self::Err> {
                $crate::names::choose($what, text, Self::ALL)
            }
        }

        impl std::fmt::Display for $type {
            fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str(self.name())
            }
        }

        impl serde::Serialize for $type {
            fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                serializer.serialize_str(self.name())
            }
        }

        impl<'de> serde::Deserialize<'de> for $type {
            fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                let text = String::deserialize(deserializer)?;
                text.parse().map_err(serde::de::Error::custom)
            }
        }
    };
}
pub(crate) use named;
