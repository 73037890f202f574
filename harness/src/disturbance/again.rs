//! What the machine disturbed is run again.

/// At most so often.
const REPEATS: usize = 2;

/// What `run` comes to when nothing disturbs it, or at last.
pub(crate) fn undisturbed<T, E>(
    mut run: impl FnMut() -> Result<T, E>,
    is_disturbed: impl Fn(&T) -> bool,
    is_over: impl Fn() -> bool,
) -> Result<T, E> {
    let mut outcome = run()?;
    for _ in 0..REPEATS {
        if !is_disturbed(&outcome) || is_over() {
            break;
        }
        outcome = run()?;
    }
    Ok(outcome)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_disturbed_round_is_measured_again_and_not_for_ever() {
        let after = |disturbed: usize, is_over: bool| {
            let mut runs = 0;
            let run = || {
                runs += 1;
                Ok::<_, ()>(runs <= disturbed)
            };
            let last = undisturbed(run, |is_disturbed| *is_disturbed, || is_over).unwrap();
            (last, runs)
        };
        assert_eq!(after(0, false), (false, 1));
        assert_eq!(after(1, false), (false, 2));
        assert_eq!(after(9, false), (true, 1 + REPEATS));
        assert_eq!(after(1, true), (true, 1), "it was interrupted");
    }

    #[test]
    fn what_fails_is_not_run_again() {
        let mut runs = 0;
        let run = || {
            runs += 1;
            Err::<bool, _>("failed")
        };
        assert_eq!(undisturbed(run, |_| true, || false), Err("failed"));
        assert_eq!(runs, 1);
    }
}
