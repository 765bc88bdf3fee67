//! Making a table fit a terminal: text is elided in the middle, then columns go in their order,
//! and at last what must stay moves below its row. Nothing wraps inside a cell.

use textwrap::core::display_width;

/// Columns between two cells.
pub const GAP: usize = 2;
/// How far lines below a row are set in.
pub const INDENT: usize = 2;

/// What becomes of a column where room is short.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Room {
    /// Elided in the middle down to `least` columns; below its row where even that is too much.
    Elastic {
        /// Fewest columns that still say something.
        least: usize,
    },
    /// Left out; the smallest `turn` goes first.
    Leaves {
        /// Its turn; [`u8::MAX`] stays whatever comes.
        turn: u8,
    },
}

impl Room {
    /// Stays as it is.
    pub const WHOLE: Room = Room::Leaves { turn: u8::MAX };
}

/// Which columns are shown, and where.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Fit {
    /// Columns beside each other, with their widths.
    pub beside: Vec<(usize, usize)>,
    /// Columns below each row, one line each.
    pub below: Vec<usize>,
}

/// Decides how columns fit `width`; without one, everything is shown whole.
#[must_use]
pub fn fit(headings: &[&str], rooms: &[Room], rows: &[Vec<String>], width: Option<usize>) -> Fit {
    let natural: Vec<usize> = headings
        .iter()
        .enumerate()
        .map(|(column, heading)| {
            let cells = rows.iter().map(|row| display_width(&row[column]));
            cells.max().unwrap_or(0).max(display_width(heading))
        })
        .collect();
    let mut whole: Vec<(usize, usize)> = natural.iter().copied().enumerate().collect();
    let Some(width) = width else {
        return Fit {
            beside: whole,
            below: Vec::new(),
        };
    };
    let elastic = |column: usize| matches!(rooms[column], Room::Elastic { .. });
    for (column, taken) in &mut whole {
        if let Room::Elastic { least } = rooms[*column] {
            *taken = (*taken).min(least.max(display_width(headings[*column])));
        }
    }
    let mut below = Vec::new();
    let mut beside = without_leavers(&whole, rooms, width);
    while taken(&beside) > width {
        let Some(place) = whole.iter().rposition(|&(column, _)| elastic(column)) else {
            break;
        };
        if whole.len() == 1 {
            break;
        }
        below.insert(0, whole.remove(place).0);
        // with one column less there may be room again for what had left
        beside = without_leavers(&whole, rooms, width);
    }
    let mut spare = width.saturating_sub(taken(&beside));
    // column by column, so that the shorter one gets what it needs and the longer one the rest
    while spare > 0 {
        let mut grown = false;
        for (column, taken) in &mut beside {
            if spare > 0 && *taken < natural[*column] {
                *taken += 1;
                spare -= 1;
                grown = true;
            }
        }
        if !grown {
            break;
        }
    }
    Fit { beside, below }
}

/// The columns without those that leave until the rest fits, or nothing can leave any more.
fn without_leavers(whole: &[(usize, usize)], rooms: &[Room], width: usize) -> Vec<(usize, usize)> {
    let mut beside = whole.to_vec();
    while taken(&beside) > width {
        let leavers = beside.iter().enumerate();
        let next = leavers.filter_map(|(place, (column, _))| match rooms[*column] {
            Room::Leaves { turn } if turn < u8::MAX => Some((turn, place)),
            _ => None,
        });
        let Some((_, place)) = next.min() else { break };
        beside.remove(place);
    }
    beside
}

fn taken(beside: &[(usize, usize)]) -> usize {
    let widths: usize = beside.iter().map(|(_, width)| width).sum();
    widths + GAP * beside.len().saturating_sub(1)
}

/// `text` in at most `width` columns, its middle replaced by `…`: a name begins with what it is
/// and ends with where it is.
#[must_use]
pub fn elide(text: &str, width: usize) -> String {
    if display_width(text) <= width {
        return text.to_owned();
    }
    let Some(room) = width.checked_sub(1) else {
        return String::new();
    };
    let (end_room, start_room) = (room / 2, room - room / 2);
    let start = prefix(text.chars(), start_room);
    let end: String = prefix(text.chars().rev(), end_room).chars().rev().collect();
    format!("{start}…{end}")
}

/// `text` filled up with blanks to `width` columns.
#[must_use]
pub fn pad(text: &str, width: usize, right: bool) -> String {
    let blanks = " ".repeat(width.saturating_sub(display_width(text)));
    if right {
        blanks + text
    } else {
        text.to_owned() + &blanks
    }
}

/// As many of the characters as fit `room` columns.
fn prefix(chars: impl Iterator<Item = char>, room: usize) -> String {
    let mut out = String::new();
    let mut used = 0;
    for c in chars {
        used += display_width(c.encode_utf8(&mut [0; 4]));
        if used > room {
            break;
        }
        out.push(c);
    }
    out
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const ROOMS: [Room; 4] = [
        Room::WHOLE,
        Room::Leaves { turn: 1 },
        Room::Leaves { turn: 0 },
        Room::Elastic { least: 6 },
    ];

    fn fitted(width: usize) -> (Vec<usize>, Vec<usize>) {
        let row = ["12345", "123", "1234", "a long name"].map(str::to_owned);
        let Fit { beside, below } =
            fit(&["A", "B", "C", "D"], &ROOMS, &[row.to_vec()], Some(width));
        (
            beside.into_iter().map(|(column, _)| column).collect(),
            below,
        )
    }

    #[test]
    fn columns_go_in_their_order() {
        assert_eq!(fitted(40), (vec![0, 1, 2, 3], vec![]));
        assert_eq!(fitted(24), (vec![0, 1, 2, 3], vec![]));
        assert_eq!(fitted(23), (vec![0, 1, 3], vec![]));
        assert_eq!(fitted(14), (vec![0, 3], vec![]));
        assert_eq!(fitted(12), (vec![0, 1], vec![3]));
        assert_eq!(fitted(2), (vec![0], vec![3]));
    }

    #[test]
    fn the_middle_goes_first() {
        assert_eq!(
            elide("main.fetch /src/main.go:24", 26),
            "main.fetch /src/main.go:24"
        );
        assert_eq!(elide("main.fetch /src/main.go:24", 17), "main.fet…in.go:24");
        assert_eq!(elide("abc", 1), "…");
        assert_eq!(elide("abc", 0), "");
    }

    proptest! {
        #[test]
        fn elided_text_fits(text in "\\PC{0,30}", width in 0usize..40) {
            prop_assert!(display_width(&elide(&text, width)) <= width);
        }

        #[test]
        fn what_is_beside_fits_where_anything_can_give_way(
            lengths in prop::collection::vec(0usize..30, 4), width in 10usize..120,
        ) {
            let row: Vec<String> = lengths.iter().map(|&n| "x".repeat(n)).collect();
            let rooms = [
                Room::Elastic { least: 5 },
                Room::Leaves { turn: 1 },
                Room::Leaves { turn: 0 },
                Room::Elastic { least: 6 },
            ];
            let fitted = fit(&["A", "B", "C", "D"], &rooms, &[row], Some(width));
            prop_assert!(taken(&fitted.beside) <= width);
            let all = fitted.beside.len() + fitted.below.len();
            prop_assert!(all >= 2);
        }
    }
}
