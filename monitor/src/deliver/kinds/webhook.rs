//! Posts an event as JSON to an HTTP endpoint. No redirects, no proxy from the environment: the request goes to the URL
//! that the operator named and nowhere else. Header values are secrets: never logged.

use std::{
    collections::BTreeMap,
    net::IpAddr,
    path::{Path, PathBuf},
    sync::{Arc, Once},
    time::Duration,
};

use futures_util::future::BoxFuture;
use peertally_core::words::SubscriberForm;
use reqwest::{
    StatusCode, Url,
    header::{CONTENT_TYPE, HeaderMap, HeaderName, HeaderValue, RETRY_AFTER},
    redirect,
};
use serde::{Deserialize, Deserializer, de};

use crate::deliver::{
    failure::{CONNECT, Failure, FailureReason, IO, REJECTED, SERVER, TIMEOUT},
    kind::{Deliver, HookKind, HookTarget, KindTable, Message, ReportProblem, ShortForm},
};

/// The kind `webhook`. No address leaves the node unless the operator says so.
pub static KIND: HookKind = HookKind {
    name: "webhook",
    keys: &["url", "headers", "ca_file"],
    delivers: "an HTTP POST to a URL",
    subscriber: SubscriberForm::Pseudonym,
    retries: 5,
    reasons: &[TIMEOUT, CONNECT, REJECTED, SERVER, IO],
};

/// Posts each event as JSON to a URL.
///
/// At `timeout` the request is aborted. Short form: the URL.
#[derive(Clone, Debug, Deserialize)]
#[cfg_attr(test, derive(serde::Serialize, schemars::JsonSchema))]
#[serde(deny_unknown_fields)]
pub struct WebhookTable {
    /// URL that gets the event by HTTP POST.
    #[cfg_attr(test, schemars(example = &"https://abuse.example.net/events"))]
    url: String,
    /// Headers added to the request, such as `Authorization`.
    #[serde(default, deserialize_with = "headers")]
    #[cfg_attr(test, schemars(example = BTreeMap::from([("Authorization", "Bearer secret")])))]
    headers: BTreeMap<String, String>,
    /// PEM file with further certificate authorities to trust.
    #[serde(default)]
    #[cfg_attr(test, schemars(example = &"/etc/peertally/ca.pem"))]
    ca_file: Option<PathBuf>,
}

/// Headers by name. A date is refused: the TOML parser makes a table with one key of a private name of it.
fn headers<'de, D: Deserializer<'de>>(deserializer: D) -> Result<BTreeMap<String, String>, D::Error> {
    let headers: BTreeMap<String, String> = Deserialize::deserialize(deserializer)?;
    if headers.contains_key("$__toml_private_datetime") {
        return Err(de::Error::invalid_type(de::Unexpected::Map, &"a map"));
    }
    Ok(headers)
}

impl ShortForm for WebhookTable {
    const SHORT_FORM: Option<&'static str> = Some("string");

    fn from_text(url: &str) -> Option<Self> {
        Some(Self { url: url.to_owned(), headers: BTreeMap::new(), ca_file: None })
    }
}

impl KindTable for WebhookTable {
    fn check(&self, report: &mut ReportProblem<'_>) -> Option<Arc<dyn HookTarget>> {
        match Endpoint::new(&self.url, &self.headers, self.ca_file.as_deref()) {
            Ok(endpoint) => Some(Arc::new(endpoint)),
            Err(problem) => {
                report(&problem.header.map_or("url".to_owned(), |name| format!("headers.{name}")), problem.message);
                None
            }
        }
    }
}

/// Bytes of an answer kept for the log.
const KEPT_ANSWER: usize = 512;
/// Header with the event's id, for a receiver that must act once on an event that arrives twice.
pub const EVENT_ID_HEADER: &str = "x-peertally-event-id";
/// Header with the event's id under the name of the IETF draft `draft-ietf-httpapi-idempotency-key-header`.
const IDEMPOTENCY_HEADER: &str = "idempotency-key";

/// Where to post.
#[derive(Clone)]
pub struct Endpoint {
    url: Url,
    headers: HeaderMap,
    ca_file: Option<PathBuf>,
}

impl std::fmt::Debug for Endpoint {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Endpoint").field("url", &self.url_without_query()).finish_non_exhaustive()
    }
}

/// Why an endpoint cannot be used.
#[derive(Debug)]
pub struct EndpointProblem {
    /// The header that is wrong; `None` if it is the URL.
    pub header: Option<String>,
    /// The mistake and its correction.
    pub message: String,
}

impl Endpoint {
    /// Checks a URL and its headers.
    ///
    /// # Errors
    /// [`EndpointProblem`] with the part that cannot be used.
    pub fn new(url: &str, headers: &BTreeMap<String, String>, ca_file: Option<&Path>) -> Result<Self, EndpointProblem> {
        let wrong = |message: String| EndpointProblem { header: None, message };
        let parsed = Url::parse(url).map_err(|error| {
            wrong(format!("this is not a URL ({error}); write for example https://abuse.example.net/events"))
        })?;
        if !matches!(parsed.scheme(), "http" | "https") || parsed.host_str().is_none_or(str::is_empty) {
            return Err(wrong("a webhook URL starts with https:// or http:// and names a host".to_owned()));
        }
        if !parsed.username().is_empty() || parsed.password().is_some() {
            return Err(wrong("a URL with a password appears in logs; use `headers` with Authorization".to_owned()));
        }
        let mut map = HeaderMap::new();
        for (name, value) in headers {
            let problem = |message: &str| EndpointProblem { header: Some(name.clone()), message: message.to_owned() };
            let header = HeaderName::try_from(name.as_str()).map_err(|_| problem("this is not a header name"))?;
            if header == CONTENT_TYPE || header == EVENT_ID_HEADER || header == IDEMPOTENCY_HEADER {
                return Err(problem("this header is set by the agent"));
            }
            let mut value =
                HeaderValue::try_from(value.as_str()).map_err(|_| problem("this value cannot be sent in a header"))?;
            value.set_sensitive(true);
            if map.insert(header, value).is_some() {
                return Err(problem("this header is given twice: case does not count in names of headers; keep one"));
            }
        }
        Ok(Self { url: parsed, headers: map, ca_file: ca_file.map(Path::to_owned) })
    }

    /// The URL without query and fragment, which may hold secrets.
    #[must_use]
    pub fn url_without_query(&self) -> String {
        let mut url = self.url.clone();
        url.set_query(None);
        url.set_fragment(None);
        url.to_string()
    }
}

impl HookTarget for Endpoint {
    fn describe(&self) -> String {
        format!("POST {}", self.url_without_query())
    }

    fn is_readable_on_the_way(&self) -> bool {
        let host = self.url.host_str().unwrap_or_default().trim_matches(['[', ']']);
        let is_local =
            host == "localhost" || host.parse::<IpAddr>().is_ok_and(|address| address.to_canonical().is_loopback());
        self.url.scheme() == "http" && !is_local
    }

    fn open(&self) -> Result<Box<dyn Deliver>, String> {
        Client::new(self.clone()).map(|client| Box::new(client) as Box<dyn Deliver>)
    }
}

/// An endpoint with its connection pool.
#[derive(Debug)]
struct Client {
    endpoint: Endpoint,
    http: reqwest::Client,
}

impl Deliver for Client {
    fn attempt<'a>(&'a self, message: Message<'a>, limit: Duration) -> BoxFuture<'a, Result<(), Failure>> {
        Box::pin(self.post(message, limit))
    }
}

impl Client {
    /// Prepares TLS and connections; connects to nothing.
    ///
    /// # Errors
    /// The problem with the certificate authorities.
    fn new(endpoint: Endpoint) -> Result<Self, String> {
        static PROVIDER: Once = Once::new();
        PROVIDER.call_once(|| {
            // Fails only if one is installed already, which serves as well.
            let _installed = rustls::crypto::ring::default_provider().install_default();
        });
        let mut builder = reqwest::Client::builder()
            .user_agent(concat!("peertally/", env!("CARGO_PKG_VERSION")))
            .redirect(redirect::Policy::none())
            .no_proxy()
            .pool_max_idle_per_host(1);
        if endpoint.url.scheme() == "http" {
            // No certificate is needed, so a machine without any is fine.
            builder = builder.tls_certs_only([]);
        } else if let Some(file) = &endpoint.ca_file {
            let pem =
                std::fs::read(file).map_err(|error| format!("cannot read ca_file {}: {error}", file.display()))?;
            let certificates = reqwest::Certificate::from_pem_bundle(&pem)
                .ok()
                .filter(|certificates| !certificates.is_empty())
                .ok_or_else(|| {
                    format!(
                        "ca_file {} holds no PEM certificate; it needs `-----BEGIN CERTIFICATE-----` blocks",
                        file.display()
                    )
                })?;
            builder = builder.tls_certs_merge(certificates);
        }
        let http = builder.build().map_err(|error| {
            format!("cannot prepare TLS: {}; install ca-certificates, or name a `ca_file`", chain(&error))
        })?;
        Ok(Self { endpoint, http })
    }

    /// Posts once.
    ///
    /// # Errors
    /// [`Failure`] unless the answer is 2xx in time.
    async fn post(&self, message: Message<'_>, limit: Duration) -> Result<(), Failure> {
        let request = self
            .http
            .post(self.endpoint.url.clone())
            .headers(self.endpoint.headers.clone())
            .header(CONTENT_TYPE, "application/json")
            .header(EVENT_ID_HEADER, message.id)
            .header(IDEMPOTENCY_HEADER, message.id)
            .timeout(limit)
            .body(message.body.to_vec());
        let mut answer = request.send().await.map_err(|error| failure(&error))?;
        let status = answer.status();
        if status.is_success() {
            return Ok(());
        }
        let retry_after = answer.headers().get(RETRY_AFTER).and_then(|value| value.to_str().ok()?.parse().ok());
        let mut kept = Vec::new();
        while let Ok(Some(chunk)) = answer.chunk().await {
            kept.extend_from_slice(&chunk[..chunk.len().min(KEPT_ANSWER - kept.len())]);
            if kept.len() >= KEPT_ANSWER {
                break;
            }
        }
        let text = String::from_utf8_lossy(&kept).escape_debug().to_string();
        Err(Failure {
            reason: reason(status),
            detail: format!("{status}: \"{text}\""),
            retry_after: retry_after.map(Duration::from_secs),
        })
    }
}

/// Failure reason of a status other than success. HTTP 408, 429 and 5xx are worth another attempt.
fn reason(status: StatusCode) -> FailureReason {
    match status {
        StatusCode::REQUEST_TIMEOUT | StatusCode::TOO_MANY_REQUESTS => SERVER,
        status if status.is_server_error() => SERVER,
        _ => REJECTED,
    }
}

fn failure(error: &reqwest::Error) -> Failure {
    let reason = if error.is_timeout() {
        TIMEOUT
    } else if error.is_connect() {
        CONNECT
    } else {
        IO
    };
    Failure::new(reason, chain(error))
}

/// An error with its causes. The URL is left out: its query may hold a secret.
fn chain(error: &reqwest::Error) -> String {
    use std::error::Error;
    let mut causes = Vec::new();
    let mut source = error.source();
    while let Some(cause) = source {
        causes.push(cause.to_string());
        source = cause.source();
    }
    if causes.is_empty() { "the request failed".to_owned() } else { causes.join(": ") }
}
