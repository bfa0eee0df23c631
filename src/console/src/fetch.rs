//! A file of the web as a body: the image of a newer version, which the node fetches itself. Whose it is says its own
//! signature; TLS is for those who do not want it known.

use bytes::Bytes;
use hyper::body::Incoming;
use hyper::client::conn::http1;
use hyper::header::{ACCEPT, HOST, LOCATION, USER_AGENT};
use hyper::{Request, Response, Uri};
use hyper_util::rt::TokioIo;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::{ClientConfig, RootCertStore};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio::time::timeout;
use tokio_rustls::TlsConnector;

/// Authorities that Debian knows.
const AUTHORITIES: &str = "/etc/ssl/certs/ca-certificates.crt";
/// Until the head of an answer is there. What follows is watched by who takes it.
const ANSWER: Duration = Duration::from_secs(30);
/// Places that one address may lead to.
const MOVES: usize = 5;
/// Longest address.
const LONG: usize = 2048;

/// Asks for `address`, `http://` or `https://`, and follows where it leads, but not out of TLS.
///
/// # Errors
/// What is wrong with the address, or what the server says.
pub async fn fetch(address: &str) -> Result<Incoming, String> {
    from(address, Path::new(AUTHORITIES)).await
}

async fn from(address: &str, authorities: &Path) -> Result<Incoming, String> {
    let mut place = Place::of(address)?;
    for _ in 0..=MOVES {
        let asked = timeout(ANSWER, ask(&place, authorities)).await;
        let answer =
            asked.map_err(|_| format!("{} does not answer within {} s", place.host, ANSWER.as_secs()))??;
        let status = answer.status();
        if status.is_success() {
            return Ok(answer.into_body());
        }
        let next = answer.headers().get(LOCATION).and_then(|next| next.to_str().ok());
        let Some(next) = next.filter(|_| status.is_redirection()) else {
            return Err(format!("{} answers {status}", place.host));
        };
        place = place.led_to(next)?;
    }
    Err(format!("{address} leads from place to place, more than {MOVES} times"))
}

/// Where a file is.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Place {
    tls: bool,
    host: String,
    port: u16,
    path: String,
}

impl Place {
    fn of(address: &str) -> Result<Place, String> {
        let odd = || format!("{address:?} is no address as https://HOST/elpis-VERSION.iso");
        if address.len() > LONG {
            return Err(format!("an address has at most {LONG} characters"));
        }
        let uri: Uri = address.trim().parse().map_err(|_| odd())?;
        let tls = match uri.scheme_str() {
            Some("https") => true,
            Some("http") => false,
            _ => return Err(odd()),
        };
        let authority = uri.authority().ok_or_else(odd)?;
        if authority.as_str().contains('@') {
            return Err(
                "an address with a name or a password in it is not taken: it would be in logs".to_owned()
            );
        }
        let port = uri.port_u16().unwrap_or(if tls { 443 } else { 80 });
        let path = uri.path_and_query().map_or("/", |path| path.as_str());
        Ok(Place { tls, host: authority.host().to_owned(), port, path: path.to_owned() })
    }

    /// Where an answer leads: a whole address, or a path here.
    fn led_to(&self, next: &str) -> Result<Place, String> {
        let place = match next.starts_with('/') && !next.starts_with("//") {
            true => {
                let path = next.parse::<Uri>().map_err(|_| format!("{} leads to {next:?}", self.host))?;
                Place { path: path.to_string(), ..self.clone() }
            }
            false => Place::of(next)?,
        };
        match self.tls && !place.tls {
            true => Err(format!("{} leads out of TLS, to {}", self.host, place.host)),
            false => Ok(place),
        }
    }
}

async fn ask(place: &Place, authorities: &Path) -> Result<Response<Incoming>, String> {
    let failed = |error: &dyn std::fmt::Display| format!("{}: {error}", place.host);
    let bare = place.host.trim_matches(['[', ']']);
    let stream = TcpStream::connect((bare, place.port)).await.map_err(|error| failed(&error))?;
    if !place.tls {
        return talk(place, stream).await;
    }
    let mut roots = RootCertStore::empty();
    let known = CertificateDer::pem_file_iter(authorities).and_then(Iterator::collect);
    let known: Vec<CertificateDer<'static>> =
        known.map_err(|error| format!("cannot read {}: {error}", authorities.display()))?;
    roots.add_parsable_certificates(known);
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let config = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(|error| failed(&error))?
        .with_root_certificates(roots)
        .with_no_client_auth();
    let name = ServerName::try_from(bare.to_owned()).map_err(|error| failed(&error))?;
    let connected = TlsConnector::from(Arc::new(config)).connect(name, stream).await;
    talk(place, connected.map_err(|error| failed(&error))?).await
}

async fn talk(
    place: &Place,
    stream: impl AsyncRead + AsyncWrite + Send + Unpin + 'static,
) -> Result<Response<Incoming>, String> {
    let failed = |error: &dyn std::fmt::Display| format!("{}: {error}", place.host);
    let (mut sender, connection) =
        http1::handshake(TokioIo::new(stream)).await.map_err(|error| failed(&error))?;
    // It ends with the body, or with who reads it.
    tokio::spawn(async move {
        if let Err(error) = connection.await {
            tracing::debug!(%error, "the connection that an image came by");
        }
    });
    let usual = place.port == if place.tls { 443 } else { 80 };
    let host = if usual { place.host.clone() } else { format!("{}:{}", place.host, place.port) };
    let request = Request::get(&place.path)
        .header(HOST, host)
        .header(USER_AGENT, concat!("elpis/", env!("CARGO_PKG_VERSION")))
        .header(ACCEPT, "*/*")
        .body(http_body_util::Empty::<Bytes>::new())
        .map_err(|error| failed(&error))?;
    sender.send_request(request).await.map_err(|error| failed(&error))
}

#[cfg(test)]
mod tests {
    use super::*;
    use axum::Router;
    use axum::http::StatusCode;
    use axum::response::Redirect;
    use axum::routing::get;
    use http_body_util::BodyExt;
    use rcgen::CertifiedKey;

    #[test]
    fn addresses_are_read_and_nothing_leads_out_of_tls() {
        let place = Place::of("https://dl.example.org/a/elpis-0.2.0.iso?x=1").unwrap();
        assert_eq!(
            (place.tls, place.host.as_str(), place.port, place.path.as_str()),
            (true, "dl.example.org", 443, "/a/elpis-0.2.0.iso?x=1")
        );
        assert_eq!(Place::of("http://[::1]:8080").unwrap().port, 8080);
        assert_eq!(place.led_to("/b").unwrap().path, "/b");
        assert_eq!(place.led_to("https://other.example.org:444/c").unwrap().port, 444);
        assert!(place.led_to("http://dl.example.org/b").unwrap_err().contains("leads out of TLS"));
        for bad in
            ["", "elpis.iso", "ftp://a/b", "https://", "https://me:secret@a/b", "file:///etc/shadow", "//a/b"]
        {
            assert!(Place::of(bad).is_err(), "{bad}");
        }
        assert!(Place::of(&format!("http://a/{}", "b".repeat(LONG))).is_err());
    }

    fn files() -> Router {
        Router::new()
            .route("/image", get(|| async { "I".repeat(3 << 20) }))
            .route("/moved", get(|| async { Redirect::temporary("/image") }))
            .route("/round", get(|| async { Redirect::temporary("/round") }))
            .route("/gone", get(|| async { StatusCode::GONE }))
    }

    async fn length(address: &str, authorities: &Path) -> Result<usize, String> {
        let body = from(address, authorities).await?;
        Ok(body.collect().await.map_err(|error| error.to_string())?.to_bytes().len())
    }

    #[tokio::test]
    async fn a_file_comes_from_where_it_has_moved_to() {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let at = format!("http://{}", listener.local_addr().unwrap());
        tokio::spawn(async move { axum::serve(listener, files()).await });
        let none = Path::new("/nowhere");
        assert_eq!(length(&format!("{at}/moved"), none).await, Ok(3 << 20));
        for (path, says) in [("gone", "410 Gone"), ("none", "404 Not Found"), ("round", "more than 5 times")]
        {
            let error = length(&format!("{at}/{path}"), none).await.unwrap_err();
            assert!(error.contains(says), "{error}");
        }
        let error = length("http://127.0.0.1:1/x", none).await.unwrap_err();
        assert!(error.contains("refused"), "{error}");
    }

    #[tokio::test]
    async fn tls_is_spoken_with_who_is_vouched_for() {
        let folder = tempfile::tempdir().unwrap();
        let CertifiedKey { cert, signing_key } =
            rcgen::generate_simple_self_signed(["localhost".to_owned()]).unwrap();
        let (certificate, key) = (folder.path().join("crt"), folder.path().join("key"));
        std::fs::write(&certificate, cert.pem()).unwrap();
        std::fs::write(&key, signing_key.serialize_pem()).unwrap();
        let acceptor = crate::tls::acceptor(&certificate, &key).unwrap();
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let stop = tokio_util::sync::CancellationToken::new();
        let _end = stop.clone().drop_guard();
        tokio::spawn(crate::serve::tls(listener, acceptor, files(), stop));
        assert_eq!(length(&format!("https://localhost:{port}/moved"), &certificate).await, Ok(3 << 20));
        let error = length(&format!("https://127.0.0.1:{port}/image"), &certificate).await.unwrap_err();
        assert!(error.contains("certificate"), "{error}");
        let error =
            length(&format!("https://localhost:{port}/image"), Path::new("/nowhere")).await.unwrap_err();
        assert!(error.contains("cannot read /nowhere"), "{error}");
    }
}
