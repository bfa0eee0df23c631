//! Five-field patterns of a module (semantics A.13): each field `*`, a number or a range; no lists, no steps.

/// A field that matches numbers.
#[derive(Clone, Copy)]
struct Field(Option<(i64, i64)>);

impl Field {
    fn parse(text: &str) -> Option<Field> {
        if text == "*" {
            return Some(Field(None));
        }
        let number = |t: &str| t.bytes().all(|b| b.is_ascii_digit()).then(|| t.parse::<i64>().ok()).flatten();
        match text.split_once('-') {
            Some((a, b)) => Some(Field(Some((number(a)?, number(b)?)))),
            None => number(text).map(|n| Field(Some((n, n)))),
        }
    }

    fn matches(self, number: i64) -> bool {
        match self.0 {
            None => true,
            Some((a, b)) if a <= b => (a..=b).contains(&number),
            Some((a, b)) => number >= a || number <= b,
        }
    }
}

/// Day number since 1970 to (month, day of month).
fn month_day(days: i64) -> (i64, i64) {
    // Civil calendar by 400-year eras, March-based.
    let z = days + 719_468;
    let day_of_era = z.rem_euclid(146_097);
    let year_of_era = (day_of_era - day_of_era / 1460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let month = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * month + 2) / 5 + 1;
    (if month < 10 { month + 3 } else { month - 9 }, day)
}

/// Seconds from `now` (local seconds) to the next run: the plain interval when `now + interval` matches or the
/// pattern is none, otherwise up to the next match.
pub fn next_delay(pattern: &str, now: i64, interval: i64) -> i64 {
    let fields: Option<Vec<Field>> = pattern.split_whitespace().map(Field::parse).collect();
    let Some([minute, hour, day, month, weekday]) =
        fields.as_deref().and_then(|f| <[Field; 5]>::try_from(f).ok())
    else {
        return interval;
    };
    let weekday = Field(weekday.0.filter(|(a, b)| *a <= 6 && *b <= 6));
    let day_matches = |days: i64| {
        let (m, d) = month_day(days);
        month.matches(m) && day.matches(d) && weekday.matches((days + 4).rem_euclid(7))
    };
    let matches = |time: i64| {
        day_matches(time.div_euclid(86_400))
            && hour.matches(time.rem_euclid(86_400) / 3600)
            && minute.matches(time.rem_euclid(3600) / 60)
    };
    if matches(now + interval) {
        return interval;
    }
    let mut time = (now.div_euclid(60) + 1) * 60;
    // Five years reach each date there is, 29 February too.
    let end = now + 5 * 366 * 86_400;
    while time < end {
        let days = time.div_euclid(86_400);
        if !day_matches(days) {
            time = (days + 1) * 86_400;
        } else if !hour.matches(time.rem_euclid(86_400) / 3600) {
            time = (time.div_euclid(3600) + 1) * 3600;
        } else if !minute.matches(time.rem_euclid(3600) / 60) {
            time += 60;
        } else {
            return time - now;
        }
    }
    interval
}
