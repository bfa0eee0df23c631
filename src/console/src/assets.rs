//! Style and script, built in; their names carry a hash, so that a browser keeps them until they change.

use crate::sessions::hex;
use aws_lc_rs::digest;
use axum::extract::Path;
use axum::http::StatusCode;
use axum::http::header::{CACHE_CONTROL, CONTENT_TYPE};
use axum::response::{IntoResponse, Response};
use std::sync::LazyLock;

struct Asset {
    /// `style.0123456789abcdef.css`
    name: String,
    kind: &'static str,
    text: &'static str,
}

fn asset(stem: &str, end: &str, kind: &'static str, text: &'static str) -> Asset {
    let hash = digest::digest(&digest::SHA256, text.as_bytes());
    Asset { name: format!("{stem}.{}.{end}", hex(&hash.as_ref()[..8])), kind, text }
}

static STYLE: LazyLock<Asset> =
    LazyLock::new(|| asset("style", "css", "text/css; charset=utf-8", include_str!("../web/style.css")));
static SCRIPT: LazyLock<Asset> =
    LazyLock::new(|| asset("live", "js", "text/javascript; charset=utf-8", include_str!("../web/live.js")));
static ICON: LazyLock<Asset> =
    LazyLock::new(|| asset("icon", "svg", "image/svg+xml", include_str!("../web/icon.svg")));

fn path(asset: &Asset) -> String {
    format!("/static/{}", asset.name)
}
pub(crate) fn style() -> String {
    path(&STYLE)
}
pub(crate) fn script() -> String {
    path(&SCRIPT)
}
pub(crate) fn icon() -> String {
    path(&ICON)
}

pub(crate) async fn serve(Path(name): Path<String>) -> Response {
    let assets: [&Asset; 3] = [&STYLE, &SCRIPT, &ICON];
    match assets.into_iter().find(|asset| asset.name == name) {
        Some(asset) => {
            let keep = "public, max-age=31536000, immutable";
            ([(CONTENT_TYPE, asset.kind), (CACHE_CONTROL, keep)], asset.text).into_response()
        }
        None => StatusCode::NOT_FOUND.into_response(),
    }
}
