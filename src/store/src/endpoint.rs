//! Where the database is, and as whom.

use crate::StoreError;
use sqlx::mysql::MySqlConnectOptions;
use std::str::FromStr;

/// A text that is never shown in logs or errors.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(String);

impl Secret {
    /// Wraps a text.
    pub fn new(text: impl Into<String>) -> Secret {
        Secret(text.into())
    }
    /// The text itself.
    pub fn expose(&self) -> &str {
        &self.0
    }
}

impl std::fmt::Debug for Secret {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Secret(..)")
    }
}

/// One announced address of the database. Connections belong to an epoch: a new epoch closes them all.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Endpoint {
    /// Number that grows with every change of the address or of the primary behind it.
    pub epoch: u64,
    /// `mysql://host:port/db`, `mysql://localhost/db?socket=/path`, with `ssl-mode=` and `ssl-ca=` where needed.
    pub url: String,
    /// Account.
    pub user: String,
    /// Its password; empty = none.
    pub password: Secret,
}

impl Endpoint {
    /// Options for the database itself. TLS is asked for where the address is no socket and names no `ssl-mode`:
    /// the server's certificate is then demanded, but not its name.
    pub(crate) fn options(&self) -> Result<MySqlConnectOptions, StoreError> {
        self.parse(&self.url)
    }

    /// Options for the server without a database, and the database's name.
    pub(crate) fn server_options(&self) -> Result<(MySqlConnectOptions, String), StoreError> {
        let (base, query) = self.url.split_once('?').unwrap_or((&self.url, ""));
        let after = base.find("://").map_or(0, |at| at + 3);
        let slash = base[after..].find('/').map(|at| after + at);
        let name = slash.map_or("", |at| &base[at + 1..]);
        let plain = |c: char| c.is_ascii_alphanumeric() || c == '_' || c == '-';
        if name.is_empty() || name.len() > 64 || !name.chars().all(plain) {
            return Err(StoreError::Endpoint(format!(
                "the database name {name:?} cannot be used; take letters, digits, _ and -"
            )));
        }
        let url = format!("{}/?{query}", &base[..slash.unwrap_or(base.len())]);
        Ok((self.parse(&url)?, name.to_owned()))
    }

    fn parse(&self, url: &str) -> Result<MySqlConnectOptions, StoreError> {
        if !url.starts_with("mysql://") && !url.starts_with("mariadb://") {
            return Err(StoreError::Endpoint("the address must begin with mysql://".to_owned()));
        }
        // The parser's own message may repeat the address; ours does not.
        let options = MySqlConnectOptions::from_str(url)
            .map_err(|_| StoreError::Endpoint("it is no address like mysql://host:3306/name".to_owned()))?;
        let options = options.username(&self.user).statement_cache_capacity(200);
        let options = match self.password.expose() {
            "" => options,
            password => options.password(password),
        };
        let socket_or_told =
            options.get_socket().is_some() || url.contains("ssl-mode=") || url.contains("sslmode=");
        Ok(if socket_or_told { options } else { options.ssl_mode(sqlx::mysql::MySqlSslMode::Required) })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn endpoint(url: &str) -> Endpoint {
        Endpoint { epoch: 1, url: url.to_owned(), user: "u".to_owned(), password: Secret::new("p") }
    }

    #[test]
    fn the_database_name_is_taken_apart() {
        let (options, name) = endpoint("mysql://localhost/elpis?socket=/run/s").server_options().unwrap();
        assert_eq!((name.as_str(), options.get_database()), ("elpis", None));
        assert_eq!(options.get_socket().unwrap().to_str(), Some("/run/s"));
        assert_eq!(endpoint("mysql://h:3307/elpis").server_options().unwrap().0.get_port(), 3307);
        for bad in ["mysql://h", "mysql://h/", "mysql://h/a`b", "postgres://h/x", "h/x"] {
            assert!(endpoint(bad).server_options().is_err(), "{bad}");
        }
    }

    #[test]
    fn a_password_is_never_shown() {
        assert!(!format!("{:?}", endpoint("mysql://h/x")).contains("\"p\""));
    }
}
