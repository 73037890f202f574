//! `[matrix]`: axes, cells, rounds.

use super::super::Kind::{Expression, Integer, List, Paths, Quantities, Text, TextOrTexts, Texts, Values};
use super::super::{NEEDED, Section};
use super::{EXPECT, TABLE, key, section};
use crate::scenario::matrix::MOST_ROUNDS;

/// `[matrix]`
pub static MATRIX: Section = section(
    "matrix",
    &[
        key(&["show"], Quantities, "needed with axes", "what is shown of each cell"),
        key(
            &["axis"],
            List(&AXIS),
            "none",
            "`[[matrix.axis]]`: the first has the rows, the second the columns; with more, there is a grid for each combination of the others",
        ),
        key(&["cell"], List(&CELL), "none", "`[[matrix.cell]]`, in place of axes"),
        key(&["rounds"], Integer(1, MOST_ROUNDS), "once, without rounds", "how often each cell is run"),
        key(
            &["expect"],
            List(&EXPECT),
            "none",
            "`[[matrix.expect]]`: what must hold over all rounds, as in `[[expect]]`",
        ),
        key(&["table"], List(&TABLE), "none", "`[[matrix.table]]`: a table over all rounds, as `[[table]]`"),
    ],
);

/// `[[matrix.axis]]`
pub static AXIS: Section = Section {
    id: "axis",
    calls: "key of an axis",
    keys: &[
        key(&["name"], Text, NEEDED, "names it in cells and headings: letters, digits, `_`"),
        key(
            &["path"],
            TextOrTexts,
            NEEDED,
            "the place in this file whose value it replaces: keys with dots between; an entry of a list by its `id` or by a number from 0, as in `flow.echo.ping.count`. The file must have a value there",
        ),
        key(
            &["values"],
            Values,
            NEEDED,
            "what stands there, one after another: whatever may stand there, tables too",
        ),
        key(&["labels"], Texts, "the values", "how grids and cells call the values"),
    ],
    one_of: &[],
    extends: None,
};

/// `[[matrix.cell]]`
pub static CELL: Section = Section {
    id: "cell",
    calls: "key of a cell",
    keys: &[
        key(&["name"], Text, NEEDED, "names it: lower-case letters, digits, `_`, a letter first"),
        key(&["set"], Paths, "nothing", "paths as above, in quotes, and what stands there in this cell"),
        key(&["check"], Expression, "nothing", "what must hold besides in each of its runs"),
    ],
    one_of: &[],
    extends: None,
};
