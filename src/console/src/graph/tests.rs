use super::*;

/// The vectors that the rules of monitoring are tested with.
const CASES: &str = include_str!("../../../monitor/tests/cases/graph.json");

#[test]
fn samples_follow_the_vectors() {
    let cases: serde_json::Value = serde_json::from_str(CASES).unwrap();
    let mut run = 0;
    for case in cases["cases"].as_array().unwrap() {
        let input = &case["inputs"];
        let time = |key: &str| input[key].as_i64().unwrap();
        let (from, to) = (time("from"), time("to"));
        let points: Vec<(i64, f64)> = serde_json::from_value(input["points"].clone()).unwrap();
        let (before, rows): (Vec<_>, Vec<_>) = points.into_iter().partition(|(at, _)| *at < from);
        let count = 50 * input["graph_res"].as_i64().unwrap_or(RESOLUTION);
        let got = samples_of(Shape::Numeric, before.last().copied(), &rows, (from, to), to, count);
        let got: Vec<[f64; 3]> = got.iter().map(|s| [s.least, s.mean, s.greatest]).collect();
        let expected: Option<Vec<[f64; 3]>> =
            serde_json::from_value(case["expected"]["samples"].clone()).unwrap();
        // No graph at all is no samples.
        assert_eq!(got, expected.unwrap_or_default(), "{}", case["id"]);
        run += 1;
    }
    assert!(run >= 5);
}

#[test]
fn boolean_async_and_text_modules_have_their_own_rules() {
    let span = (0, 1500);
    let rows = [(10, 1.0), (15, 0.0), (18, 1.0), (40, 1.0)];
    let values = |shape| samples(shape, None, &rows, span, 49).iter().map(|s| s.mean).collect::<Vec<_>>();
    // A failure within a sample wins; then the last real value is carried. After now there is nothing.
    assert_eq!(values(Shape::Boolean), [0.0, 0.0, 1.0, 1.0, 1.0]);
    assert_eq!(values(Shape::Async)[2..], [0.0, 0.0, 1.0]);
    assert_eq!(values(Shape::Changes), [0.0, 3.0, 0.0, 0.0, 1.0]);
}

#[test]
fn unknown_time_is_cut_to_the_window() {
    let event = |at, kind: &str| (at, kind.to_owned());
    let events = [
        event(5, "going_unknown"),
        event(30, "going_down_normal"),
        event(50, "going_up_critical"),
        event(80, "going_unknown"),
    ];
    assert_eq!(unknown_spans(&events, (10, 100)), [(10, 30), (80, 100)]);
    assert_eq!(unknown_spans(&events, (35, 70)), []);
}

#[test]
fn numbers_are_short() {
    for (value, text) in [
        (0.0, "0"),
        (-0.0, "0"),
        (12.5, "12.5"),
        (100.0, "100"),
        (9999.0, "9999"),
        (12_345.0, "12.35k"),
        (3.2e9, "3.2G"),
        (0.012, "0.012"),
        (f64::MAX, "1.80e308"),
    ] {
        assert_eq!(number(value), text);
    }
}

#[test]
fn any_values_give_a_bounded_picture() {
    for value in [0.0, 1e-300, -5.0, 1e300, f64::MAX, 0.1 + 0.2] {
        let list = samples(Shape::Numeric, None, &[(10, value), (20, -value)], (0, 3600), 3600);
        let picture = Picture {
            samples: &list,
            span: (0, 3600),
            unknown: &[(0, 10)],
            warning: Some((1.0, f64::INFINITY)),
            critical: None,
            boolean: false,
            title: "<t>",
        };
        let svg = picture.draw().into_string();
        assert!(svg.len() < 60_000 && svg.contains("&lt;t&gt;"), "{value}: {}", svg.len());
        assert!(!svg.contains("NaN"), "{value}: {svg}");
    }
}
