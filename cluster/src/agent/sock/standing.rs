//! What a peer may say on the socket, by the user that it runs as. PURE.

use super::answer::No;
use elpis_watch::Role;
use hyper::{Method, StatusCode};
use std::collections::BTreeMap;

/// What servers say.
const SERVERS: [&str; 6] =
    ["/v1/hello", "/v1/watch", "/v1/heartbeat", "/v1/released", "/v1/traffic", "/v1/event"];
/// What the console asks and orders beside that, for people who have signed in.
const CONSOLE: [&str; 11] = [
    "/v1/status",
    "/v1/cluster/add-node",
    "/v1/cluster/address",
    "/v1/database/switchover",
    "/v1/node/drain",
    "/v1/node/undrain",
    "/v1/node/remove",
    "/v1/node/replace",
    "/v1/update/image",
    "/v1/update/start",
    "/v1/update/stop",
];

/// How far a peer is trusted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Standing {
    /// Root, the node agent's own user; where servers have no users of their own, whoever may open the socket.
    All,
    /// A server's user.
    Server(Role),
    Stranger,
}

impl Standing {
    /// Of a user; `own`: the node agent's, `users`: those of the servers, empty = they have none.
    pub(super) fn of(uid: u32, own: u32, users: &BTreeMap<u32, Role>) -> Standing {
        if uid == 0 || uid == own || users.is_empty() {
            return Standing::All;
        }
        users.get(&uid).map_or(Standing::Stranger, |role| Standing::Server(*role))
    }

    /// Whether it may ask this at all.
    pub(super) fn may(self, method: &Method, path: &str) -> Result<(), No> {
        let may = match self {
            Standing::All => true,
            Standing::Server(role) => {
                SERVERS.contains(&path) || (role == Role::Console && CONSOLE.contains(&path))
            }
            Standing::Stranger => false,
        };
        let who = match self {
            Standing::Server(role) => format!("the {}'s user", role.as_str()),
            _ => "this user".to_owned(),
        };
        let short: String = path.chars().take(64).collect();
        may.then_some(()).ok_or_else(|| No(StatusCode::FORBIDDEN, format!("{who} may not {method} {short}")))
    }

    /// Whether it may speak for this role.
    pub(super) fn speaks_for(self, role: Role) -> Result<(), No> {
        match self {
            Standing::All => Ok(()),
            Standing::Server(own) if own == role => Ok(()),
            _ => {
                let why = format!("this user may not speak for the {}", role.as_str());
                Err(No(StatusCode::FORBIDDEN, why))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_server_speaks_for_itself_and_only_the_console_orders() {
        let users = [(701, Role::TentacleServer), (705, Role::Console)].into();
        let of = |uid| Standing::of(uid, 700, &users);
        assert_eq!((of(0), of(700)), (Standing::All, Standing::All));
        assert_eq!(of(999), Standing::Stranger);
        assert_eq!(Standing::of(999, 700, &BTreeMap::new()), Standing::All);
        assert!(of(700).may(&Method::POST, "/v1/cluster/init").is_ok());
        for (uid, path, may) in [
            (701, "/v1/hello", true),
            (701, "/v1/watch", true),
            (701, "/v1/status", false),
            (701, "/v1/cluster/add-node", false),
            (705, "/v1/cluster/add-node", true),
            (705, "/v1/cluster/recover", false),
            (705, "/v1/cluster/join", false),
            (999, "/v1/hello", false),
        ] {
            assert_eq!(of(uid).may(&Method::POST, path).is_ok(), may, "{uid} {path}");
        }
        assert!(of(701).speaks_for(Role::TentacleServer).is_ok());
        assert!(of(705).speaks_for(Role::DataServer).is_err());
        assert!(of(999).speaks_for(Role::Console).is_err());
    }
}
