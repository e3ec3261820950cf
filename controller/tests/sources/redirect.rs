//! Where a server may send the controller on to, between addresses that a namespace has for itself.

use std::net::SocketAddr;
use std::process::Command;

use nix::sched::{CloneFlags, unshare};
use voipfleet_controller::dynamic_sets::feeds::{Astray, FetchError};
use voipfleet_controller::errors::chain;
use voipfleet_controller::records::FeedRecord;

use super::fetch::{count, fetch, limits, over};
use super::web::{Does, Web, head, ok};

/// Public ones, as far as anybody in the namespace can tell.
const PUBLIC: [&str; 2] = ["45.0.0.1", "2a00:45::1"];
const INWARD: [(&str, &str); 4] = [
    ("127.0.0.1", "loopback"),
    ("169.254.169.254", "link-local"),
    ("10.9.9.9", "private"),
    ("fd00:9::9", "private"),
];

/// Runs `test` in a network namespace of its own that has these addresses.
fn in_namespace(test: impl AsyncFnOnce() + Send + 'static) {
    assert!(
        nix::unistd::geteuid().is_root(),
        "this test makes a network namespace of its own: run it as root"
    );
    let thread = std::thread::spawn(move || {
        unshare(CloneFlags::CLONE_NEWNET).expect("a network namespace");
        ip("link set lo up");
        for address in PUBLIC.into_iter().chain(INWARD.map(|(address, _)| address)) {
            if address != "127.0.0.1" {
                ip(&format!("address add {address} dev lo"));
            }
        }
        // Its threads are in the same namespace.
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build();
        runtime.unwrap().block_on(test());
    });
    if let Err(panic) = thread.join() {
        std::panic::resume_unwind(panic);
    }
}

#[allow(
    clippy::disallowed_methods,
    reason = "a tool of the test, not of the controller"
)]
fn ip(line: &str) {
    let status = Command::new("ip").args(line.split(' ')).status();
    assert!(status.unwrap().success(), "ip {line}");
}

async fn at(address: &str, does: Does) -> Web {
    let host: std::net::IpAddr = address.parse().unwrap();
    Web::serve_at(&SocketAddr::new(host, 0).to_string(), does, None).await
}

fn to(url: &str) -> Does {
    head(&format!("302 Found\r\nLocation: {url}"))
}

#[test]
fn a_redirect_into_a_private_network_is_refused() {
    in_namespace(async || {
        let new = FeedRecord::default();
        for from in PUBLIC {
            let public = at(from, ok("")).await;
            for (address, kind) in INWARD {
                let secret = at(address, ok("192.0.2.1\n")).await;
                let port = secret.address.port();
                let mut ways = vec![(secret.url(), format!("http://{}", secret.address))];
                if kind == "loopback" {
                    // Whatever a name resolves to is seen before anybody is connected to.
                    let named = format!("http://localhost:{port}");
                    ways.push((format!("{named}/list.txt"), named));
                    ways.push((
                        format!("//2130706433:{port}/"),
                        format!("http://{}", secret.address),
                    ));
                }
                for (way, origin) in ways {
                    public.does(to(&way));
                    let error = fetch(over(limits()), &public.url(), &new)
                        .await
                        .unwrap_err();
                    assert!(
                        matches!(
                            error,
                            FetchError::Redirect(Astray::Inward { .. } | Astray::LinkLocal(_))
                        ),
                        "{from} to {way}: {error:?}"
                    );
                    let error = chain(&error);
                    assert!(
                        error.contains(&format!("it redirects to {origin}, which is not followed")),
                        "{error}"
                    );
                    assert!(error.contains(&format!("is a {kind} address")), "{error}");
                    assert!(secret.asked().is_empty(), "{way} was asked");
                }
                if kind == "link-local" {
                    // Also where a document asks for it: the host's metadata may be there.
                    let refused = fetch(over(limits()), &secret.url(), &new).await;
                    assert!(
                        matches!(refused, Err(FetchError::Redirect(Astray::LinkLocal(_)))),
                        "{refused:?}"
                    );
                    continue;
                }
                // A document may mean it, and a mirror inside may lead anywhere.
                assert_eq!(count(&fetch(over(limits()), &secret.url(), &new).await), 1);
                let mirror = at("10.9.9.9", to(&secret.url())).await;
                assert_eq!(count(&fetch(over(limits()), &mirror.url(), &new).await), 1);
            }
        }
    });
}

#[test]
fn redirects_between_public_servers_are_followed_within_the_limit() {
    in_namespace(async || {
        let new = FeedRecord::default();
        let [first, second] = PUBLIC;
        let last = at(second, Does::Versioned("\"v1\"", "192.0.2.1\n".to_owned())).await;
        let middle = at(first, to(&last.url())).await;
        let public = at(first, to(&middle.url())).await;
        assert_eq!(count(&fetch(over(limits()), &public.url(), &new).await), 1);

        // The version is asked for at the end of the way.
        let known = FeedRecord {
            source: public.url(),
            fetched_ms: 1,
            etag: "\"v1\"".to_owned(),
            ..FeedRecord::default()
        };
        last.asked();
        fetch(over(limits()), &public.url(), &known).await.unwrap();
        assert!(last.asked()[0].contains("if-none-match: \"v1\""));

        // Inwards behind a step that leads to another public server.
        let secret = at("127.0.0.1", ok("192.0.2.1\n")).await;
        middle.does(to(&format!("http://localhost:{}/", secret.address.port())));
        let error = fetch(over(limits()), &public.url(), &new)
            .await
            .unwrap_err();
        assert!(chain(&error).contains("is a loopback address"), "{error:?}");
        assert!(secret.asked().is_empty());
    });
}
