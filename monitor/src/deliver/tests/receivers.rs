//! Webhooks against real servers.

use super::*;

/// A server that answers with the next status of a list, repeats the last one, and keeps all requests.
struct Server {
    url: String,
    got: Arc<Mutex<Vec<(HeaderMap, Bytes)>>>,
    calls: Arc<AtomicUsize>,
}

async fn server(statuses: &'static [u16], wait: Duration) -> Server {
    let got: Arc<Mutex<Vec<(HeaderMap, Bytes)>>> = Arc::default();
    let calls = Arc::new(AtomicUsize::new(0));
    let (kept, counted) = (Arc::clone(&got), Arc::clone(&calls));
    let answer = move |headers: HeaderMap, body: Bytes| async move {
        let call = counted.fetch_add(1, SeqCst);
        kept.lock().expect("lock").push((headers, body));
        tokio::time::sleep(wait).await;
        let status = StatusCode::from_u16(statuses[call.min(statuses.len() - 1)]).expect("status");
        (status, [("location", "http://127.0.0.1:1/elsewhere")], "a".repeat(100_000)).into_response()
    };
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("bound");
    let url = format!("http://{}/events?token=secret", listener.local_addr().expect("address"));
    tokio::spawn(async move { axum::serve(listener, Router::new().route("/events", post(answer))).await });
    Server { url, got, calls }
}

fn webhook(url: &str) -> HookConfig {
    let headers = BTreeMap::from([("Authorization".to_owned(), "Bearer hidden".to_owned())]);
    let mut config = hook(&webhook::KIND, Endpoint::new(url, &headers, None).expect("endpoint"));
    config.subscriber = SubscriberForm::Pseudonym;
    config.retries = 4;
    config
}

async fn deliver(config: HookConfig) -> HookReport {
    let dispatcher = Dispatcher::start(&[config]).expect("started");
    dispatcher.send(0, &event());
    let report = settled(&dispatcher).await;
    dispatcher.finish(Duration::ZERO).await;
    assert_eq!(report.accepted(), 1);
    report
}

#[tokio::test]
async fn a_webhook_posts_json_with_the_event_id() {
    let server = server(&[204], Duration::ZERO).await;
    assert_eq!(deliver(webhook(&server.url)).await.delivered, 1);
    let got = server.got.lock().expect("lock");
    let (headers, body) = &got[0];
    let json: serde_json::Value = serde_json::from_slice(body).expect("JSON");
    assert_eq!(headers["content-type"], "application/json");
    assert_eq!(headers["authorization"], "Bearer hidden");
    assert_eq!(headers["x-peertally-event-id"].to_str().ok(), json["id"].as_str());
    assert_eq!(headers["idempotency-key"], headers["x-peertally-event-id"]);
    assert!(json["subscriber"].get("block").is_none(), "an address left the node");
}

#[tokio::test]
async fn server_errors_are_retried_with_the_same_id_and_refusals_are_not() {
    let flaky = server(&[500, 429, 408, 200], Duration::ZERO).await;
    let report = deliver(webhook(&flaky.url)).await;
    assert_eq!((report.delivered, count(&report, SERVER).attempts), (1, 3));
    {
        let got = flaky.got.lock().expect("lock");
        assert!(got.iter().all(|(headers, _)| headers["idempotency-key"] == got[0].0["idempotency-key"]));
    }
    let refusing = server(&[403], Duration::ZERO).await;
    let report = deliver(webhook(&refusing.url)).await;
    assert_eq!((failed(&report, REJECTED), refusing.calls.load(SeqCst)), (1, 1));
    let moved = server(&[307], Duration::ZERO).await;
    let report = deliver(webhook(&moved.url)).await;
    assert_eq!((failed(&report, REJECTED), moved.calls.load(SeqCst)), (1, 1), "a redirect was followed");
    let broken = server(&[503], Duration::ZERO).await;
    let report = deliver(webhook(&broken.url)).await;
    assert_eq!((failed(&report, SERVER), broken.calls.load(SeqCst)), (1, 5));
}

#[tokio::test]
async fn a_slow_or_absent_server_is_given_up() {
    let slow = server(&[200], Duration::from_secs(60)).await;
    let mut config = webhook(&slow.url);
    (config.timeout, config.retries) = (Duration::from_millis(200), 1);
    let report = deliver(config).await;
    assert_eq!((failed(&report, TIMEOUT), slow.calls.load(SeqCst)), (1, 2));
    let absent = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("bound").local_addr().expect("address");
    let mut config = webhook(&format!("http://{absent}/"));
    config.retries = 1;
    let report = deliver(config).await;
    assert_eq!(failed(&report, CONNECT), 1);
    assert_eq!(count(&report, CONNECT).attempts, 2);
}

#[tokio::test]
async fn a_server_that_speaks_something_else_is_a_failure() {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("bound");
    let url = format!("http://{}/", listener.local_addr().expect("address"));
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            use tokio::io::AsyncWriteExt;
            let _gone = stream.write_all(b"SSH-2.0-x\r\n").await;
        }
    });
    let mut config = webhook(&url);
    config.retries = 0;
    assert_eq!(failed(&deliver(config).await, IO), 1);
}

#[test]
fn secrets_are_not_shown() {
    let config = webhook("https://host/path?token=secret#x");
    let shown = format!("{config:?}");
    assert!(!shown.contains("secret") && !shown.contains("hidden"), "{shown}");
}

/// A TLS server with a certificate of its own making that answers 200; its URL and its certificate.
async fn tls_server() -> (String, String) {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    let made = rcgen::generate_simple_self_signed(vec!["localhost".to_owned()]).expect("a certificate");
    let key = rustls::pki_types::PrivateKeyDer::try_from(made.signing_key.serialize_der()).expect("a key");
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = rustls::ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .expect("versions")
        .with_no_client_auth()
        .with_single_cert(vec![made.cert.der().clone()], key)
        .expect("usable");
    let acceptor = tokio_rustls::TlsAcceptor::from(Arc::new(config));
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("bound");
    let url = format!("https://localhost:{}/", listener.local_addr().expect("address").port());
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let Ok(mut stream) = acceptor.accept(stream).await else { continue };
            let mut request = vec![0; 65_536];
            let _read = stream.read(&mut request).await;
            let _sent = stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n").await;
        }
    });
    (url, made.cert.pem())
}

#[tokio::test]
async fn tls_is_checked_against_the_systems_authorities_and_the_ca_file() {
    let (url, certificate) = tls_server().await;
    let directory = tempfile::tempdir().expect("directory");
    let ca_file = directory.path().join("ca.pem");
    std::fs::write(&ca_file, certificate).expect("written");
    let known = Endpoint::new(&url, &BTreeMap::new(), Some(&ca_file)).expect("endpoint");
    assert_eq!(deliver(hook(&webhook::KIND, known)).await.delivered, 1);
    let unknown = Endpoint::new(&url, &BTreeMap::new(), None).expect("endpoint");
    match Dispatcher::start(&[hook(&webhook::KIND, unknown.clone())]) {
        Ok(_) => assert_eq!(failed(&deliver(hook(&webhook::KIND, unknown)).await, CONNECT), 1),
        Err(error) => assert!(error.to_string().contains("ca-certificates"), "{error}"),
    }
    std::fs::write(&ca_file, "no certificate").expect("written");
    let broken = Endpoint::new(&url, &BTreeMap::new(), Some(&ca_file)).expect("endpoint");
    let error = Dispatcher::start(&[hook(&webhook::KIND, broken)]).expect_err("refused");
    assert!(error.to_string().contains("ca.pem"), "{error}");
}
