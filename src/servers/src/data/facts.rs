//! What a data file says about its agent and modules, in our types. Pure.

use elpis_agentxml::{AgentReport, ReportItem, ReportModule, XmlError};
use elpis_monitor::{Agent, AgentMode, Module, ModuleType, Reading, status_from_word};
use jiff::civil::DateTime;
use jiff::tz::TimeZone;

/// Interval of an agent that names none.
const INTERVAL_S: u32 = 300;

/// Header of a data file.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Facts {
    /// Identity.
    pub name: String,
    /// Time of the file, Unix seconds, shifted by the offset.
    pub time: i64,
    /// Offset of the agent's clock in hours.
    pub offset_h: i8,
    /// What a new agent is made from; its address, versions and interval are what an old one learns.
    pub agent: Agent,
    /// Interval, if the file has a usable one.
    pub interval_s: Option<u32>,
    /// Name of the group, may be empty.
    pub group: String,
    /// Password of the group, may be empty.
    pub group_password: String,
}

/// Reads the header. `received` = receive time in Unix seconds: the time of a file that names none.
pub fn facts(report: &AgentReport, received: i64, zone: &TimeZone) -> Result<Facts, XmlError> {
    let text = |name: &str| report.attribute(name).unwrap_or_default().to_owned();
    let name = report.agent_name()?.to_owned();
    let offset = report.attribute("timezone_offset").and_then(|t| t.trim().parse::<i8>().ok());
    let offset_h = offset.filter(|hours| (-12..=12).contains(hours)).unwrap_or(0);
    let stamp = report.attribute("timestamp").filter(|t| !t.contains("AUTO"));
    let (time, offset_h) = match stamp.and_then(|stamp| time_of(stamp, offset_h, zone)) {
        Some(time) => (time, offset_h),
        None => (received, if stamp.is_some() { offset_h } else { 0 }),
    };
    let interval_s =
        report.attribute("interval").and_then(|t| t.trim().parse::<u32>().ok()).filter(|s| *s > 0);
    let mode = match report.attribute("agent_mode").map(str::trim) {
        Some("0") => AgentMode::Normal,
        Some("2") => AgentMode::AutoDisable,
        _ => AgentMode::Learning,
    };
    let alias = report.attribute("agent_alias").unwrap_or(&name).to_owned();
    // A list of addresses: the first is the main one.
    let address = text("address").split(',').next().unwrap_or_default().trim().to_owned();
    let agent = Agent {
        name: name.clone(),
        alias,
        address,
        interval_s: interval_s.unwrap_or(INTERVAL_S),
        mode,
        os: os_number(&text("os_name")),
        os_version: text("os_version"),
        agent_version: text("version"),
        comments: text("description"),
        custom_id: text("custom_id"),
        timezone_offset_h: offset_h,
        ..Agent::default()
    };
    let (group, group_password) = (text("group"), text("group_password"));
    Ok(Facts { name, time, offset_h, agent, interval_s, group, group_password })
}

/// A time as agents write it: Unix seconds, or a local date (`-` or `/`), which the offset shifts.
fn time_of(text: &str, offset_h: i8, zone: &TimeZone) -> Option<i64> {
    let text = text.trim();
    if text.bytes().all(|b| b.is_ascii_digit()) {
        return text.parse().ok().filter(|time| *time > 0 && *time < 1 << 40);
    }
    let date = DateTime::strptime("%Y-%m-%d %H:%M:%S", text.replace('/', "-")).ok()?;
    let local = zone.to_zoned(date).ok()?.timestamp().as_second();
    Some(local + i64::from(offset_h) * 3600).filter(|time| *time > 0)
}

/// Operating system by its name in the file (first hit wins).
fn os_number(name: &str) -> u16 {
    const NAMES: &[(&str, u16)] = &[
        ("windows", 9),
        ("cisco", 7),
        ("sunos", 2),
        ("solaris", 2),
        ("aix", 3),
        ("hp-ux", 5),
        ("apple", 8),
        ("darwin", 8),
        ("android", 15),
        ("linux", 1),
        ("enterasys", 11),
        ("3com", 11),
        ("octopods", 13),
        ("embedded", 14),
        ("bsd", 4),
    ];
    let name = name.to_lowercase();
    NAMES.iter().find(|(word, _)| name.contains(word)).map_or(10, |(_, number)| *number)
}

/// The module that a file describes; `None` when its type is not known. `agent_interval_s` is what `module_interval`
/// multiplies.
pub fn module_of(report: &ReportModule, agent_interval_s: u32) -> Option<Module> {
    let module_type = match report.module_type.trim() {
        "" => ModuleType::GENERIC_DATA,
        name => ModuleType::from_name(name)?,
    };
    let text = |name: &str| report.tag(name).unwrap_or_default().trim().to_owned();
    let number = |name: &str| {
        report
            .tag(name)
            .and_then(|t| t.trim().replacen(',', ".", 1).parse::<f64>().ok())
            .filter(|n| n.is_finite())
    };
    let real = |name: &str| number(name).unwrap_or(0.0);
    // Saturates: a cast of a finite number never wraps.
    let whole = |name: &str| real(name) as i64;
    let count = |name: &str| real(name).clamp(0.0, f64::from(u32::MAX)) as u32;
    let flag = |name: &str| report.tag(name).is_some_and(|t| t.trim() == "1");
    let mut module = Module::with_defaults(elpis_monitor::AgentId(0), &report.name, module_type);
    module.description = text("description");
    module.interval_s = interval_of(report, agent_interval_s);
    module.cron = text("crontab");
    (module.min, module.max) = (whole("min"), whole("max"));
    module.post_process = real("post_process");
    for (threshold, word) in [(&mut module.warning, "warning"), (&mut module.critical, "critical")] {
        threshold.min = real(&format!("min_{word}"));
        threshold.max = real(&format!("max_{word}"));
        threshold.text = text(&format!("str_{word}")).into();
        threshold.inverse = flag(&format!("{word}_inverse"));
    }
    let ff = &mut module.flip_flop;
    ff.limit = count("min_ff_event");
    ff.each = flag("each_ff");
    ff.normal = count("min_ff_event_normal");
    ff.warning = count("min_ff_event_warning");
    ff.critical = count("min_ff_event_critical");
    ff.keep_counters = flag("ff_type");
    ff.timeout_s = count("ff_timeout");
    ff.interval_s = count("module_ff_interval");
    module.disabled = flag("disabled");
    module.quiet = flag("quiet");
    module.unit = text("unit");
    module.custom_id = text("custom_id");
    module.critical_instructions = text("critical_instructions");
    module.warning_instructions = text("warning_instructions");
    module.unknown_instructions = text("unknown_instructions");
    Some(module)
}

/// `module_interval` is a multiple of the agent's interval; 0 = the agent's.
fn interval_of(report: &ReportModule, agent_interval_s: u32) -> u32 {
    let factor = report.tag("module_interval").and_then(|t| t.trim().parse::<u32>().ok()).unwrap_or(1);
    if factor <= 1 { 0 } else { agent_interval_s.saturating_mul(factor) }
}

/// Values of a module in the order written; one whose own time cannot be read is left out.
pub fn readings(module: &ReportModule, facts: &Facts, zone: &TimeZone) -> Vec<Reading> {
    let given_status = module.tag("status").and_then(status_from_word);
    let time = |item: &ReportItem| match &item.timestamp {
        None => Some(facts.time),
        Some(own) => time_of(own, facts.offset_h, zone),
    };
    let read = |item: &ReportItem| Some(Reading { time: time(item)?, raw: item.value.clone(), given_status });
    module.items.iter().filter_map(read).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn report(xml: &str) -> AgentReport {
        elpis_agentxml::parse(xml, &elpis_agentxml::Limits::default()).unwrap()
    }

    #[test]
    fn the_header_is_read_with_its_defaults() {
        let zone = TimeZone::UTC;
        let minimal = facts(&report("<agent_data agent_name='a'/>"), 77, &zone).unwrap();
        assert_eq!((minimal.time, minimal.interval_s, minimal.agent.interval_s), (77, None, 300));
        assert_eq!(
            (minimal.agent.alias.as_str(), minimal.agent.os, minimal.agent.mode),
            ("a", 10, AgentMode::Learning)
        );
        let full = "<agent_data agent_name='a' agent_alias='A' timestamp='2023/11/14 22:13:20' timezone_offset='2' \
                    os_name='GNU/Linux' interval='60' address='10.0.0.1,10.0.0.2' agent_mode='0'/>";
        let full = facts(&report(full), 77, &zone).unwrap();
        assert_eq!((full.time, full.offset_h, full.interval_s), (1_700_000_000 + 7200, 2, Some(60)));
        assert_eq!(
            (full.agent.address.as_str(), full.agent.os, full.agent.mode),
            ("10.0.0.1", 1, AgentMode::Normal)
        );
        assert!(facts(&report("<agent_data/>"), 77, &zone).is_err());
    }

    #[test]
    fn times_are_dates_or_seconds_and_bad_ones_are_none() {
        let zone = TimeZone::UTC;
        for (text, time) in [
            ("2023-11-14 22:13:20", Some(1_700_000_000)),
            ("1700000000", Some(1_700_000_000)),
            ("yesterday", None),
            ("", None),
            ("2023-13-14 22:13:20", None),
            ("99999999999999999999", None),
        ] {
            assert_eq!(time_of(text, 0, &zone), time, "{text}");
        }
    }

    #[test]
    fn a_module_carries_all_its_tags_and_values_their_times() {
        let xml = "<agent_data agent_name='a' timestamp='1700000000'><module><name>m</name><type>generic_data</type>\
            <min_warning>80</min_warning><max_warning>90,5</max_warning><module_interval>2</module_interval>\
            <min_ff_event>1</min_ff_event><status>warning</status><datalist><data><value>1</value>\
            <timestamp>1699999999</timestamp></data><data><value>2</value></data><data><value>3</value>\
            <timestamp>never</timestamp></data></datalist></module><module><name>x</name><type>odd</type></module>\
            </agent_data>";
        let report = report(xml);
        let facts = facts(&report, 77, &TimeZone::UTC).unwrap();
        let module = module_of(&report.modules[0], 60).unwrap();
        assert_eq!((module.warning.min, module.warning.max, module.interval_s), (80.0, 90.5, 120));
        assert_eq!(module.flip_flop.limit, 1);
        let readings = readings(&report.modules[0], &facts, &TimeZone::UTC);
        let times: Vec<(i64, &str)> = readings.iter().map(|r| (r.time, r.raw.as_str())).collect();
        assert_eq!(times, [(1_699_999_999, "1"), (1_700_000_000, "2")]);
        assert_eq!(readings[0].given_status, Some(elpis_monitor::Status::Warning));
        assert_eq!(module_of(&report.modules[1], 60), None);
    }
}
