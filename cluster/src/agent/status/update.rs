//! A rollout, for people and scripts.

use crate::agent::messages::Knowledge;
use crate::state::ClusterState;
use crate::update::{Rollout, Step};
use elpis_watch::NodeId;
use serde::{Deserialize, Serialize};

/// The last rollout of a newer version.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct UpdateLine {
    pub version: String,
    /// `going`, `done` or `stopped`.
    pub state: String,
    /// Why it stopped.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub why: Option<String>,
    /// Cluster time, Unix milliseconds.
    pub begun_ms: i64,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ended_ms: Option<i64>,
    /// In order.
    pub nodes: Vec<UpdateNode>,
}

/// A node's turn.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct UpdateNode {
    pub name: String,
    /// The version before.
    pub from: String,
    /// `waits`, `writes`, `drains`, `restarts`, `settles`, `done`.
    pub step: String,
    /// In words.
    pub text: String,
}

impl UpdateLine {
    /// One line for a screen.
    #[must_use]
    pub fn text(&self) -> String {
        let done = self.nodes.iter().filter(|node| node.step == "done").count();
        let (all, version) = (self.nodes.len(), &self.version);
        match (&self.why, self.state.as_str()) {
            (Some(why), _) => format!("to {version} stopped, {done} of {all} nodes done: {why}"),
            (None, "done") => format!("to {version} done, {all} nodes"),
            _ => {
                let now = self.nodes.iter().find(|node| node.step != "done");
                let now = now.map(|node| format!(": {} {}", node.name, node.text)).unwrap_or_default();
                format!("to {version}, {done} of {all} nodes done{now}")
            }
        }
    }
}

/// PURE: the last rollout, with what the nodes say they do.
pub(super) fn line(state: &ClusterState, known: Option<&Knowledge>) -> Option<UpdateLine> {
    let rollout = state.rollout.as_ref()?;
    let name = |id: NodeId| state.nodes.get(&id).map_or_else(|| id.to_string(), |node| node.name.clone());
    let doing = |id: NodeId| {
        let seen = known.and_then(|known| known.updates.get(&id));
        seen.map(|seen| seen.doing.clone()).filter(|doing| !doing.is_empty() && rollout.goes_on())
    };
    let step = |step: Step| {
        let text = serde_json::to_value(step).unwrap_or_default();
        text.as_str().unwrap_or_default().to_owned()
    };
    Some(UpdateLine {
        version: rollout.image.version.clone(),
        state: match rollout {
            Rollout { stopped: Some(_), .. } => "stopped",
            Rollout { ended_ms: Some(_), .. } => "done",
            _ => "going",
        }
        .to_owned(),
        why: rollout.stopped.clone(),
        begun_ms: rollout.begun_ms,
        ended_ms: rollout.ended_ms,
        nodes: rollout
            .turns
            .iter()
            .map(|turn| UpdateNode {
                name: name(turn.node),
                from: turn.from.clone(),
                step: step(turn.step),
                text: doing(turn.node).unwrap_or_else(|| turn.step.words().to_owned()),
            })
            .collect(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn says_in_a_line_how_far_it_is() {
        let node = |name: &str, step: &str, text: &str| UpdateNode {
            name: name.into(),
            step: step.into(),
            text: text.into(),
            ..UpdateNode::default()
        };
        let mut line = UpdateLine {
            version: "2".into(),
            state: "going".into(),
            nodes: vec![node("n1", "done", "done"), node("n2", "restarts", "starts anew")],
            ..UpdateLine::default()
        };
        assert_eq!(line.text(), "to 2, 1 of 2 nodes done: n2 starts anew");
        (line.state, line.why) = ("stopped".into(), Some("no space".into()));
        assert_eq!(line.text(), "to 2 stopped, 1 of 2 nodes done: no space");
        (line.state, line.why) = ("done".into(), None);
        assert_eq!(line.text(), "to 2 done, 2 nodes");
    }
}
