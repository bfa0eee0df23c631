//! Signs in over TLS as a browser does, for tests that need a session and no browser.

#[path = "../../../src/console/tests/support/trust.rs"]
mod trust;

use rustls::pki_types::ServerName;
use std::path::Path;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

/// The session cookie's value.
pub(crate) async fn sign_in(address: &str, certificate: &Path, password: &str) -> String {
    let stream = tokio::net::TcpStream::connect(address).await.unwrap();
    let name = ServerName::try_from("localhost").unwrap();
    let mut stream = trust::connector(certificate).connect(name, stream).await.unwrap();
    let form = format!("name=admin&password={password}&next=%2F");
    let request = format!(
        "POST /sign-in HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\ncontent-length: {}\r\n\
         content-type: application/x-www-form-urlencoded\r\n\r\n{form}",
        form.len()
    );
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut answer = Vec::new();
    // The end of the connection may come without the close of TLS.
    let _ = stream.read_to_end(&mut answer).await;
    let answer = String::from_utf8_lossy(&answer).into_owned();
    let cookie = answer.split("__Host-elpis=").nth(1).unwrap_or_else(|| panic!("no session in {answer}"));
    cookie.split(';').next().unwrap().to_owned()
}
