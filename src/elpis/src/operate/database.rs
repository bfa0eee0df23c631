//! `elpis database migrate`.

use super::secret;
use crate::cli::DatabaseArgs;
use anyhow::{Result, bail};

pub(super) async fn order(to: &DatabaseArgs) -> Result<()> {
    migrate(&to.url, &to.user, secret::read(to.password_file.as_deref())?).await
}

/// Makes the schema or brings it up to this version.
#[allow(clippy::unused_async)] // waits for the store's migration
pub(crate) async fn migrate(_url: &str, _user: &str, _password: String) -> Result<()> {
    bail!("the database schema is not in this build")
}
