//! A browser without eyes: one TLS connection that trusts the console's own certificate and keeps its cookie.

#[path = "trust.rs"]
mod trust;

use super::node::World;
use axum::body::Bytes;
use http_body_util::{BodyExt, Full};
use hyper::client::conn::http1::SendRequest;
use hyper::header::{HeaderMap, SET_COOKIE};
use hyper_util::rt::TokioIo;
use rustls::pki_types::ServerName;
use tokio_rustls::TlsConnector;

pub(crate) struct Web {
    sender: SendRequest<Full<Bytes>>,
    connector: TlsConnector,
    to: std::net::SocketAddr,
    pub(crate) cookie: String,
}

pub(crate) struct Answer {
    pub(crate) status: u16,
    pub(crate) headers: HeaderMap,
    pub(crate) text: String,
}

impl Answer {
    pub(crate) fn header(&self, name: &str) -> &str {
        self.headers.get(name).map_or("", |value| value.to_str().unwrap())
    }
}

async fn connect(connector: &TlsConnector, to: std::net::SocketAddr) -> SendRequest<Full<Bytes>> {
    let stream = tokio::net::TcpStream::connect(to).await.unwrap();
    let stream = connector.connect(ServerName::try_from("localhost").unwrap(), stream).await.unwrap();
    let (sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.unwrap();
    tokio::spawn(connection);
    sender
}

impl Web {
    pub(crate) async fn open(world: &World) -> Web {
        let connector = trust::connector(&world.dir.path().join("console.crt"));
        let sender = connect(&connector, world.listen).await;
        Web { sender, connector, to: world.listen, cookie: String::new() }
    }

    /// The same, signed in as the first user.
    pub(crate) async fn signed_in(world: &World) -> Web {
        let mut web = Web::open(world).await;
        let form = format!("name=admin&password={}&next=%2F", world.password().await);
        let answer = web.post("/sign-in", &form).await;
        assert_eq!((answer.status, answer.header("location")), (303, "/"), "{}", answer.text);
        web
    }

    pub(crate) async fn get(&mut self, path: &str) -> Answer {
        self.send("GET", path, "", &[]).await
    }

    pub(crate) async fn post(&mut self, path: &str, form: &str) -> Answer {
        self.send("POST", path, form, &[("content-type", "application/x-www-form-urlencoded")]).await
    }

    pub(crate) async fn send(
        &mut self,
        method: &str,
        path: &str,
        body: &str,
        headers: &[(&str, &str)],
    ) -> Answer {
        let mut request = hyper::Request::builder().method(method).uri(path).header("host", "localhost");
        if !self.cookie.is_empty() {
            request = request.header("cookie", &self.cookie);
        }
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        // A refused body ends the connection.
        if self.sender.ready().await.is_err() {
            self.sender = connect(&self.connector, self.to).await;
        }
        let answer =
            self.sender.send_request(request.body(Full::new(Bytes::from(body.to_owned()))).unwrap()).await;
        let (parts, body) = answer.unwrap().into_parts();
        for set in parts.headers.get_all(SET_COOKIE) {
            let pair = set.to_str().unwrap().split(';').next().unwrap();
            if pair.starts_with("__Host-elpis=") {
                pair.clone_into(&mut self.cookie);
            }
        }
        let text = body.collect().await.unwrap().to_bytes();
        Answer {
            status: parts.status.as_u16(),
            headers: parts.headers,
            text: String::from_utf8_lossy(&text).into_owned(),
        }
    }
}
