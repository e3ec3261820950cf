//! Tables that fit the terminal: columns where it is wide enough, else one block per row.

use comfy_table::{
    CellAlignment, Color, ColumnConstraint, ContentArrangement, Table as Grid, Width,
};

use crate::console::Pane;
use crate::console::style::Tone;
use crate::format::{printable, thousands};

/// The last column is wrapped down to this width; below it, rows become blocks.
const MIN_WRAPPED: usize = 18;

/// One cell.
#[derive(Debug, Clone)]
pub struct Cell {
    text: String,
    tone: Tone,
    number: bool,
}

impl Cell {
    /// A text with its meaning.
    pub fn toned(text: impl Into<String>, tone: Tone) -> Self {
        Self {
            text: printable(&text.into()),
            tone,
            number: false,
        }
    }

    /// A quantity, with grouped thousands, aligned to the right.
    pub fn quantity(number: u64) -> Self {
        Self::right(thousands(number))
    }

    /// An identifying number, which can be pasted, aligned to the right; `-` for none.
    pub fn id(number: Option<u64>) -> Self {
        Self::right(number.map_or_else(|| "-".to_owned(), |number| number.to_string()))
    }

    fn right(text: String) -> Self {
        Self {
            text,
            tone: Tone::Plain,
            number: true,
        }
    }

    /// Whether there is nothing to show: a block leaves such a line out.
    fn is_empty(&self) -> bool {
        matches!(self.text.as_str(), "" | "-")
    }

    fn drawn(&self, colour: bool) -> comfy_table::Cell {
        let cell = comfy_table::Cell::new(&self.text);
        let cell = if self.number {
            cell.set_alignment(CellAlignment::Right)
        } else {
            cell
        };
        match self.tone {
            _ if !colour => cell,
            Tone::Plain => cell,
            Tone::Good => cell.fg(Color::Green),
            Tone::Attention => cell.fg(Color::Yellow),
            Tone::Bad => cell.fg(Color::Red),
        }
    }
}

impl<T: Into<String>> From<T> for Cell {
    fn from(text: T) -> Self {
        Cell::toned(text, Tone::Plain)
    }
}

/// Rows under a header; the first column names the row.
#[derive(Debug)]
pub struct Table {
    header: Vec<&'static str>,
    rows: Vec<Vec<Cell>>,
}

impl Table {
    /// A table without rows.
    pub fn new(header: &[&'static str]) -> Self {
        Self {
            header: header.to_vec(),
            rows: Vec::new(),
        }
    }

    /// Adds a row.
    pub fn row(&mut self, cells: impl IntoIterator<Item = Cell>) {
        self.rows.push(cells.into_iter().collect());
    }

    /// The text of the table for `pane`, with a line end; empty without rows.
    pub fn render(&self, pane: &Pane) -> String {
        if self.rows.is_empty() {
            return String::new();
        }
        let mut grid = self.grid(pane);
        match pane.width() {
            Some(width) if !squeeze(&mut grid, width, self.longest_word()) => {
                self.blocks(width, pane.colour())
            }
            _ => finish(&mut grid),
        }
    }

    /// The longest word of the last column: it is never broken.
    fn longest_word(&self) -> usize {
        let cells = self.rows.iter().filter_map(|row| row.last());
        let words = cells.flat_map(|cell| cell.text.split_whitespace());
        words.map(|word| word.chars().count()).max().unwrap_or(0)
    }

    fn grid(&self, pane: &Pane) -> Grid {
        let mut grid = bare(pane.colour());
        grid.set_header(
            self.header
                .iter()
                .map(|title| title.to_uppercase())
                .collect::<Vec<_>>(),
        );
        for row in &self.rows {
            grid.add_row(
                row.iter()
                    .map(|cell| cell.drawn(pane.colour()))
                    .collect::<Vec<_>>(),
            );
        }
        close_up(&mut grid);
        grid
    }

    /// One block for each row: its name, then `column  value` lines.
    fn blocks(&self, width: usize, colour: bool) -> String {
        let mut text = String::new();
        for row in &self.rows {
            let Some((name, values)) = row.split_first() else {
                continue;
            };
            text.push_str(&name.text);
            text.push('\n');
            let mut grid = bare(colour);
            grid.set_content_arrangement(ContentArrangement::Dynamic);
            grid.set_width(u16::try_from(width).unwrap_or(u16::MAX));
            let titles = self.header.iter().skip(1);
            for (title, cell) in titles.zip(values).filter(|(_, cell)| !cell.is_empty()) {
                let value = Cell {
                    number: false,
                    ..cell.clone()
                }
                .drawn(colour);
                grid.add_row(vec![comfy_table::Cell::new(format!("  {title}")), value]);
            }
            close_up(&mut grid);
            text.push_str(&finish(&mut grid));
        }
        text
    }
}

fn bare(colour: bool) -> Grid {
    let mut grid = Grid::new();
    grid.load_style(comfy_table::presets::NOTHING);
    grid.set_content_arrangement(ContentArrangement::Disabled);
    grid.force_no_tty();
    if colour {
        grid.enforce_styling();
    }
    grid
}

/// Two spaces between columns, none around them.
fn close_up(grid: &mut Grid) {
    for column in grid.column_iter_mut() {
        column.set_padding((0, 2));
    }
}

/// Makes the columns fit `width`, if necessary by wrapping the last one; false if that would
/// leave too little of it.
fn squeeze(grid: &mut Grid, width: usize, longest_word: usize) -> bool {
    let columns = grid.column_max_content_widths();
    let Some((last, others)) = columns.split_last() else {
        return true;
    };
    let before: usize = others.iter().map(|width| usize::from(*width) + 2).sum();
    let wanted = usize::from(*last);
    let left = width.saturating_sub(before);
    if left < wanted.min(MIN_WRAPPED.max(longest_word)) {
        return false;
    }
    if left < wanted
        && let Some(column) = grid.column_mut(others.len())
    {
        // Two more for the padding that `close_up` gives every column.
        let most = u16::try_from(left + 2).unwrap_or(u16::MAX);
        column.set_constraint(ColumnConstraint::UpperBoundary(Width::Fixed(most)));
    }
    true
}

fn finish(grid: &mut Grid) -> String {
    let mut text = String::new();
    for line in grid.lines() {
        text.push_str(line.trim_end());
        text.push('\n');
    }
    text
}
