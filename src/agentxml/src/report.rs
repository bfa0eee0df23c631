//! From the tree to what a data file says.

use crate::tree::{self, Element};
use crate::{Limits, XmlError};
use std::borrow::Cow;

/// Tags that modules usually have, in order: their names are not copied.
const USUAL: &[&str] = &[
    "critical_instructions",
    "critical_inverse",
    "crontab",
    "custom_id",
    "description",
    "disabled",
    "each_ff",
    "ff_timeout",
    "ff_type",
    "max",
    "max_critical",
    "max_warning",
    "min",
    "min_critical",
    "min_ff_event",
    "min_ff_event_critical",
    "min_ff_event_normal",
    "min_ff_event_warning",
    "min_warning",
    "module_ff_interval",
    "module_group",
    "module_interval",
    "module_parent",
    "post_process",
    "quiet",
    "status",
    "str_critical",
    "str_warning",
    "tags",
    "timestamp",
    "unit",
    "unknown_instructions",
    "warning_instructions",
    "warning_inverse",
];

/// A data file: header attributes and modules, as written; rules come later.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct AgentReport {
    /// All attributes of the root element, in order.
    pub attributes: Vec<(String, String)>,
    /// Modules in order; those without a name are left out.
    pub modules: Vec<ReportModule>,
    /// `<custom_fields>`: name and value.
    pub custom_fields: Vec<(String, String)>,
    /// Sections that were in the file and are not used here, by element name.
    pub unused: Vec<String>,
}

/// One module of a file.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct ReportModule {
    /// Name without line breaks.
    pub name: String,
    /// Type as written; empty = default.
    pub module_type: String,
    /// Every other tag with text, in order (name, type and values left out).
    pub tags: Vec<(Cow<'static, str>, String)>,
    /// Its values in the order written.
    pub items: Vec<ReportItem>,
}

/// One value.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct ReportItem {
    /// Text as written.
    pub value: String,
    /// Its own time as written.
    pub timestamp: Option<String>,
}

impl AgentReport {
    /// An attribute of the root element, if it is there and not empty.
    pub fn attribute(&self, name: &str) -> Option<&str> {
        self.attributes
            .iter()
            .find(|(key, _)| key == name)
            .map(|(_, value)| value.as_str())
            .filter(|value| !value.is_empty())
    }

    /// The agent's name.
    pub fn agent_name(&self) -> Result<&str, XmlError> {
        self.attribute("agent_name").ok_or(XmlError::NoAgentName)
    }

    /// Name of a server when this is a server's keep-alive and not an agent's report.
    pub fn server_name(&self) -> Option<&str> {
        self.attribute("server_name")
    }
}

impl ReportModule {
    /// Text of a tag, if it is there and not blank.
    pub fn tag(&self, name: &str) -> Option<&str> {
        self.tags
            .iter()
            .find(|(key, _)| key == name)
            .map(|(_, value)| value.as_str())
            .filter(|value| !value.trim().is_empty())
    }
}

/// Reads a decoded file.
pub fn parse(text: &str, limits: &Limits) -> Result<AgentReport, XmlError> {
    let root = tree::read(text, limits)?;
    let mut report = AgentReport::default();
    for child in root.children {
        match &*child.name {
            "module" if report.modules.len() >= limits.modules => {
                return Err(XmlError::Limit { line: 1, what: "modules", limit: limits.modules });
            }
            "module" => report.modules.extend(module(&child)),
            "custom_fields" => {
                let fields = child.children_named("field").filter_map(|f| {
                    Some((f.child_text("name")?.to_owned(), f.child_text("value")?.to_owned()))
                });
                report.custom_fields.extend(fields);
            }
            other if !report.unused.iter().any(|name| name == other) => report.unused.push(other.to_owned()),
            _ => {}
        }
    }
    report.attributes =
        root.attributes.into_iter().map(|(key, value)| (key.into_owned(), value.into_owned())).collect();
    Ok(report)
}

/// A module; tags may also be attributes of the element.
fn module(element: &Element<'_>) -> Option<ReportModule> {
    let text = |name: &str| element.child_text(name).or_else(|| element.attribute(name));
    let name: String = text("name")?.chars().filter(|c| !matches!(c, '\n' | '\r')).collect();
    if name.trim().is_empty() {
        return None;
    }
    let mut module = ReportModule {
        name,
        module_type: text("type").unwrap_or_default().to_owned(),
        ..ReportModule::default()
    };
    let taken = |name: &str| matches!(name, "name" | "type" | "data" | "datalist");
    let attributes =
        element.attributes.iter().filter(|(key, _)| element.children_named(key).next().is_none());
    let owned = |key: &str, value: &str| {
        let usual = USUAL.binary_search(&key).ok().and_then(|at| USUAL.get(at));
        (usual.map_or_else(|| Cow::Owned(key.to_owned()), |usual| Cow::Borrowed(*usual)), value.to_owned())
    };
    module.tags.reserve(element.children.len());
    module.tags.extend(attributes.filter(|(key, _)| !taken(key)).map(|(key, value)| owned(key, value)));
    let children = element.children.iter().filter(|child| !taken(&child.name));
    module.tags.extend(children.map(|child| owned(&child.name, &child.text)));
    module.items = items(element, &module);
    Some(module)
}

fn items(element: &Element<'_>, module: &ReportModule) -> Vec<ReportItem> {
    let list: Vec<ReportItem> = element
        .children_named("datalist")
        .flat_map(|list| list.children_named("data"))
        .map(list_item)
        .collect();
    if !list.is_empty() {
        return list;
    }
    let own_time = module.tag("timestamp").map(str::to_owned);
    let value = element.child_text("data").or_else(|| element.attribute("data"));
    let value = if module.module_type == "log4x" { value.or_else(|| module.tag("severity")) } else { value };
    value.map(|value| ReportItem { value: value.to_owned(), timestamp: own_time }).into_iter().collect()
}

/// An item of a data list: `<value>` and `<timestamp>`, or its bare text.
fn list_item(data: &Element<'_>) -> ReportItem {
    let value = data.child_text("value").or_else(|| data.attribute("value")).unwrap_or(&data.text);
    let timestamp = data.child_text("timestamp").or_else(|| data.attribute("timestamp"));
    ReportItem { value: value.to_owned(), timestamp: timestamp.map(str::to_owned) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn usual_tags_stand_in_order_and_each_is_found() {
        assert!(USUAL.is_sorted_by(|a, b| a < b));
    }
}
