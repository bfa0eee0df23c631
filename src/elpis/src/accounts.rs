//! Puts the node agent, which decides on database accounts, and the store, which has the SQL for them, together.

use elpis_cluster::agent::accounts::{Maker, Order};
use elpis_store::{AccessRole, Account, Endpoint, Secret, provide_access};
use elpis_watch::Role;

/// What the node agent carries its orders out with.
pub(crate) fn maker() -> Maker {
    Maker::new(|order| async move {
        let Order { url, user, password, migrate, make, drop } = order;
        let admin = Endpoint { epoch: 0, url, user, password: Secret::new(password.0) };
        if migrate {
            let done = elpis_store::migrate(&admin).await.map_err(|error| error.to_string())?;
            if done.from != Some(done.to) {
                tracing::info!(from = done.from, to = done.to, "the schema was brought up to date");
            }
        }
        let make: Vec<Account> = make
            .into_iter()
            .filter_map(|account| {
                let (user, password) = (account.user, Secret::new(account.password.0));
                role(account.role).map(|role| Account { user, role, password })
            })
            .collect();
        provide_access(&admin, &make, &drop).await.map_err(|error| error.to_string())
    })
}

fn role(role: Role) -> Option<AccessRole> {
    match role {
        Role::DataServer => Some(AccessRole::Data),
        Role::NetworkServer => Some(AccessRole::Network),
        Role::Console => Some(AccessRole::Console),
        Role::TentacleServer | Role::DbGate | Role::AddressKeeper => None,
    }
}

#[cfg(test)]
mod tests {
    use elpis_cluster::agent::accounts::ROLES;

    #[test]
    fn every_role_that_uses_the_database_has_its_privileges() {
        let all: Vec<_> = ROLES.into_iter().filter_map(super::role).collect();
        assert_eq!(all, elpis_store::AccessRole::ALL);
    }
}
