//! Statements of many rows with a few fixed sizes, so that the server's prepared statements are used again.

use crate::StoreError;
use sqlx::mysql::{MySqlArguments, MySqlConnection};
use sqlx::{Arguments, AssertSqlSafe, Encode, MySql, Type};

/// Row counts of a statement. A rest is rounded up by repeating its last row where that changes nothing.
const SHAPES: [usize; 11] = [1000, 512, 256, 128, 64, 32, 16, 8, 4, 2, 1];
/// Bound bytes of one statement; far below the smallest packet limit in use (16 MiB).
const MAX_BYTES: usize = 4 << 20;

/// A statement with a repeated group of placeholders.
pub(crate) struct Bulk {
    /// Up to `VALUES ` or `IN (`.
    pub(crate) head: &'static str,
    /// One row: `(?,?)` or `?`.
    pub(crate) row: &'static str,
    /// What follows the last row.
    pub(crate) tail: &'static str,
    /// The same row twice is the same as once.
    pub(crate) repeatable: bool,
}

/// Values of one row on their way into a statement.
pub(crate) struct Binder {
    arguments: MySqlArguments,
    failed: Option<sqlx::error::BoxDynError>,
}

impl Binder {
    fn new() -> Binder {
        Binder { arguments: MySqlArguments::default(), failed: None }
    }
    /// Binds the next placeholder.
    pub(crate) fn add<'t, T: Encode<'t, MySql> + Type<MySql>>(&mut self, value: T) {
        if let Err(error) = self.arguments.add(value) {
            self.failed.get_or_insert(error);
        }
    }
}

impl Bulk {
    /// Text with `rows` rows.
    pub(crate) fn text(&self, rows: usize) -> String {
        let mut text = String::with_capacity(self.head.len() + self.tail.len() + rows * (self.row.len() + 1));
        text.push_str(self.head);
        for i in 0..rows {
            if i > 0 {
                text.push(',');
            }
            text.push_str(self.row);
        }
        text.push_str(self.tail);
        text
    }

    /// Runs it for all items, in their order. `size` estimates the bytes of one item.
    pub(crate) async fn run<T>(
        &self,
        conn: &mut MySqlConnection,
        items: &[T],
        size: impl Fn(&T) -> usize,
        bind: impl Fn(&mut Binder, &T),
    ) -> Result<(), sqlx::Error> {
        let mut rest = items;
        while !rest.is_empty() {
            let bytes = rest.iter().scan(0usize, |sum, item| {
                *sum += size(item);
                Some(*sum)
            });
            let fit = bytes.take(SHAPES[0]).take_while(|sum| *sum <= MAX_BYTES).count().max(1);
            let (shape, take) = self.shape(fit);
            let mut binder = Binder::new();
            for item in &rest[..take] {
                bind(&mut binder, item);
            }
            for _ in take..shape {
                bind(&mut binder, &rest[take - 1]);
            }
            if let Some(error) = binder.failed {
                return Err(sqlx::Error::Encode(error));
            }
            sqlx::query_with(AssertSqlSafe(self.text(shape)), binder.arguments).execute(&mut *conn).await?;
            rest = &rest[take..];
        }
        Ok(())
    }

    /// Rows of the statement for `n` items, and how many of them it takes.
    fn shape(&self, n: usize) -> (usize, usize) {
        let down = SHAPES.iter().copied().find(|shape| *shape <= n).unwrap_or(1);
        let up = SHAPES.iter().rev().copied().find(|shape| *shape >= n).unwrap_or(down);
        // A fifth more rows costs less than one more statement.
        if self.repeatable && n > 4 && up - n <= n / 5 { (up, n) } else { (down, down) }
    }
}

/// `?,?,..` for an `IN` list of fixed size.
pub(crate) fn marks(n: usize) -> String {
    let mut text = "?,".repeat(n);
    text.pop();
    text
}

/// Text cut to a number of characters.
pub(crate) fn cut(text: &str, max: usize) -> &str {
    text.char_indices().nth(max).map_or(text, |(at, _)| &text[..at])
}

/// A number that a column of type DOUBLE can hold.
pub(crate) fn finite(number: f64) -> f64 {
    if number.is_nan() { 0.0 } else { number.clamp(f64::MIN, f64::MAX) }
}

impl From<sqlx::error::BoxDynError> for StoreError {
    fn from(error: sqlx::error::BoxDynError) -> StoreError {
        StoreError::Sql(sqlx::Error::Encode(error))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rests_are_rounded_up_only_where_that_changes_nothing() {
        let mut bulk = Bulk { head: "INSERT INTO t VALUES ", row: "(?,?)", tail: " ;", repeatable: true };
        assert_eq!(bulk.text(2), "INSERT INTO t VALUES (?,?),(?,?) ;");
        assert_eq!(
            [bulk.shape(1), bulk.shape(3), bulk.shape(120), bulk.shape(300)],
            [(1, 1), (2, 2), (128, 120), (256, 256)]
        );
        assert_eq!((bulk.shape(900), bulk.shape(1000)), ((1000, 900), (1000, 1000)));
        bulk.repeatable = false;
        assert_eq!(bulk.shape(120), (64, 64));
    }

    #[test]
    fn texts_are_cut_at_characters() {
        assert_eq!((cut("añb", 2), cut("ab", 2), cut("", 0), cut("ab", 0)), ("añ", "ab", "", ""));
        assert_eq!((finite(f64::INFINITY), finite(f64::NAN), finite(1.5)), (f64::MAX, 0.0, 1.5));
    }
}
