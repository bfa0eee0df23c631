//! `elpis database migrate`.

use super::secret;
use crate::cli::DatabaseArgs;
use crate::output;
use anyhow::Result;
use elpis_store::{Endpoint, Migrated, Secret};
use serde_json::json;

pub(super) async fn order(to: &DatabaseArgs, as_json: bool) -> Result<()> {
    let done = migrate(&to.url, &to.user, secret::read(to.password_file.as_deref())?).await?;
    if as_json {
        output::json(&json!({ "from": done.from, "to": done.to }));
    } else {
        output::line(&match done.from {
            Some(from) if from == done.to => format!("the schema is at version {from} already"),
            Some(from) => format!("the schema went from version {from} to {}", done.to),
            None => format!("the schema was made, version {}", done.to),
        });
    }
    Ok(())
}

/// Makes the schema or brings it up to this version.
pub(crate) async fn migrate(url: &str, user: &str, password: String) -> Result<Migrated> {
    let password = Secret::new(password);
    let endpoint = Endpoint { epoch: 0, url: url.to_owned(), user: user.to_owned(), password };
    Ok(elpis_store::migrate(&endpoint).await?)
}
