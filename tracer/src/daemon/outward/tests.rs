//! Delivery to a receiver that is not always well.

#![expect(clippy::unwrap_used, reason = "a failed assumption fails the test")]

use std::{
    io::{Read as _, Write as _},
    net::TcpListener,
    thread,
};

use super::*;
use crate::samples;

/// Answers requests with these statuses, one after the other, and gives their bodies back.
fn receiver(statuses: &'static [u16]) -> (Destination, thread::JoinHandle<Vec<String>>) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = format!("http://{}/hook", listener.local_addr().unwrap());
    let receiving = thread::spawn(move || {
        let answered = statuses.iter().map(|status| {
            let (mut stream, _) = listener.accept().unwrap();
            let mut text = String::new();
            let mut bytes = [0; 4096];
            loop {
                let read = stream.read(&mut bytes).unwrap();
                text.push_str(std::str::from_utf8(&bytes[..read]).unwrap());
                let (head, body) = text.split_once("\r\n\r\n").unwrap_or_default();
                let length = head
                    .lines()
                    .find_map(|line| line.strip_prefix("content-length: "));
                if length.is_some_and(|length| length.parse() == Ok(body.len())) {
                    break;
                }
            }
            write!(stream, "HTTP/1.1 {status} X\r\nContent-Length: 0\r\n\r\n").unwrap();
            assert!(text.starts_with("POST /hook HTTP/1.1\r\n"), "{text}");
            assert!(text.contains("content-type: application/json\r\n"));
            text.split_once("\r\n\r\n").unwrap().1.to_owned()
        });
        answered.collect()
    });
    (address.parse().unwrap(), receiving)
}

fn run(future: impl Future<Output = ()>) {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap();
    runtime.block_on(future);
}

#[test]
fn what_may_help_is_tried_again_and_what_may_not_is_given_up() {
    let (to, receiving) = receiver(&[503, 429, 200, 400, 204]);
    let counts = Arc::<Counts>::default();
    let (waiting, queue) = mpsc::channel(9);
    for body in ["a", "b", "c"] {
        waiting
            .try_send((body.to_owned(), Bytes::from_static(body.as_bytes())))
            .unwrap();
    }
    drop(waiting);
    let rest = Duration::from_millis(1);
    run(deliver("webhook", to, queue, Arc::clone(&counts), rest));
    assert_eq!(receiving.join().unwrap(), ["a", "a", "a", "b", "c"]);
    assert_eq!(counts.sent.load(Ordering::Relaxed), 2);
    assert_eq!(counts.failed.load(Ordering::Relaxed), 1);
}

#[test]
fn an_event_has_a_key_and_no_examples() {
    let (to, receiving) = receiver(&[200, 200, 200]);
    run(async move {
        let destinations = Destinations {
            webhook: Some(to),
            ..Destinations::default()
        };
        let (outward, deliveries) = Outward::start(destinations, "node-a".to_owned());
        for change in [Change::New, Change::Worse, Change::Resolved] {
            outward.tell(change, &samples::finding(), samples::start());
        }
        let counts: Vec<_> = outward.counts().collect();
        assert_eq!(counts[0], (["webhook", "sent"], 0));
        drop(outward);
        for delivery in deliveries {
            delivery.await.unwrap();
        }
    });
    let events: Vec<Event> = receiving
        .join()
        .unwrap()
        .iter()
        .map(|body| serde_json::from_str(body).unwrap())
        .collect();
    let keys: Vec<&str> = events.iter().map(|event| event.key.as_str()).collect();
    assert_eq!(
        keys,
        [
            "3f9a1c2b4d5e6f70:new",
            "3f9a1c2b4d5e6f70:worse:1767323045000",
            "3f9a1c2b4d5e6f70:resolved:1767323045000"
        ]
    );
    assert_eq!(events[0].finding.remote.examples, Vec::<String>::new());
    assert_eq!(events[0].host, "node-a");
}

#[test]
fn nobody_waits_for_a_receiver_that_is_away() {
    run(async move {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let to = format!("http://{}", listener.local_addr().unwrap());
        let destinations = Destinations {
            otlp: Some(to.parse().unwrap()),
            ..Destinations::default()
        };
        let (outward, _) = Outward::start(destinations, "node-a".to_owned());
        for _ in 0..WAITING_MAX + 7 {
            outward.tell(Change::New, &samples::finding(), samples::start());
        }
        let dropped = outward.counts().last();
        assert_eq!(dropped, Some((["otlp", "dropped"], 7)));
    });
}

#[test]
fn an_attempt_that_is_given_up_leaves_no_connection() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let to: Destination = format!("http://{}/hook", listener.local_addr().unwrap())
        .parse()
        .unwrap();
    let receiving = thread::spawn(move || {
        let (mut stream, _) = listener.accept().unwrap();
        stream
            .set_read_timeout(Some(Duration::from_secs(20)))
            .unwrap();
        let mut bytes = Vec::new();
        stream.read_to_end(&mut bytes).map(|_| bytes.len())
    });
    run(async move {
        let body = Bytes::from(vec![b'x'; 8 << 20]);
        let given_up = timeout(Duration::from_millis(100), post::post(&to, body)).await;
        assert!(given_up.is_err());
        while !receiving.is_finished() {
            sleep(Duration::from_millis(10)).await;
        }
        assert!(receiving.join().unwrap().is_ok());
    });
}
