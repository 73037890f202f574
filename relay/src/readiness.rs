//! What whoever started the relay is told, and when.

/// Whether the relay serves, as far as that was told.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub(crate) enum Readiness {
    #[default]
    Unknown,
    Waits,
    Serves,
    /// It served, and a DC answers no more.
    Lost,
}

/// What to tell.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Tell {
    /// It waits for a DC.
    Waits,
    /// It serves, for the first time: readiness is told once.
    Ready,
    /// It serves again.
    Again,
}

impl Readiness {
    /// Takes whether every DC has `registered` the relay; something if that is news.
    pub(crate) fn update(&mut self, registered: bool) -> Option<Tell> {
        let (next, tell) = match (*self, registered) {
            (Self::Unknown, false) => (Self::Waits, Tell::Waits),
            (Self::Serves, false) => (Self::Lost, Tell::Waits),
            (Self::Unknown | Self::Waits, true) => (Self::Serves, Tell::Ready),
            (Self::Lost, true) => (Self::Serves, Tell::Again),
            (Self::Waits | Self::Lost, false) | (Self::Serves, true) => return None,
        };
        *self = next;
        Some(tell)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn readiness_is_told_once_and_every_change_of_it() {
        let mut readiness = Readiness::default();
        let told = [false, false, true, true, false, false, true, true].map(|now| readiness.update(now));
        let expected = [
            Some(Tell::Waits),
            None,
            Some(Tell::Ready),
            None,
            Some(Tell::Waits),
            None,
            Some(Tell::Again),
            None,
        ];
        assert_eq!(told, expected);
        assert_eq!(Readiness::default().update(true), Some(Tell::Ready));
    }
}
