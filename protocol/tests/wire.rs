//! Every message, with any values: it reads back as it was written, and nothing else reads at all.

use std::fmt::Debug;
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use ntm_protocol::addr::{Fqdn, NodeId, PathId, Vip, VipRange};
use ntm_protocol::crypto::{SharedKey, Suite};
use ntm_protocol::wire::*;
use proptest::collection::vec;
use proptest::option;
use proptest::prelude::*;
use proptest::sample::{Index, select};

fn request() -> impl Strategy<Value = RequestId> {
    any::<u64>().prop_map(RequestId)
}

fn key() -> impl Strategy<Value = SharedKey> {
    any::<[u8; 32]>().prop_map(SharedKey::new)
}

fn node() -> impl Strategy<Value = NodeId> {
    any::<[u8; 16]>().prop_map(NodeId)
}

fn path() -> impl Strategy<Value = PathId> {
    any::<[u8; 16]>().prop_map(PathId)
}

fn vip() -> impl Strategy<Value = Vip> {
    any::<[u8; 4]>().prop_map(|octets| Vip(octets.into()))
}

/// Neither the flow label nor the scope of an IPv6 address goes onto the wire.
fn socket() -> impl Strategy<Value = SocketAddr> {
    any::<(IpAddr, u16)>().prop_map(|(ip, port)| SocketAddr::new(ip, port))
}

fn fqdn() -> impl Strategy<Value = Fqdn> {
    vec("[a-z0-9_-]{1,63}", 1..=3).prop_map(|labels| Fqdn::new(&labels.join(".")).expect("a good name"))
}

fn list<T: Debug, const N: usize>(of: impl Strategy<Value = T>) -> impl Strategy<Value = List<T, N>> {
    vec(of, 0..=N).prop_map(|values| values.into_iter().collect())
}

fn millis() -> impl Strategy<Value = Duration> {
    any::<u32>().prop_map(|ms| Duration::from_millis(ms.into()))
}

fn role() -> impl Strategy<Value = Role> {
    select(&[Role::Initiator, Role::Responder][..])
}

fn suite() -> impl Strategy<Value = Suite> {
    select(&Suite::ALL[..])
}

fn rtts() -> impl Strategy<Value = List<RelayRtt, MAX_RELAYS>> {
    list((node(), any::<u32>()).prop_map(|(relay, micros)| RelayRtt { relay, micros }))
}

fn registration_request() -> impl Strategy<Value = RegistrationRequest> {
    let kind = select(&[NodeKind::Terminal, NodeKind::Relay, NodeKind::Coordinator][..]);
    (request(), fqdn(), kind, any::<u32>(), list(socket()), rtts(), option::of(vips())).prop_map(
        |(request, fqdn, kind, life, addresses, rtts, vips)| RegistrationRequest {
            request,
            fqdn,
            kind,
            life,
            addresses,
            rtts,
            vips,
        },
    )
}

fn relays() -> impl Strategy<Value = List<RelayToMeasure, MAX_RELAYS>> {
    let relay = (node(), socket(), key());
    list(relay.prop_map(|(relay, address, key)| RelayToMeasure { relay, address, key }))
}

fn vips() -> impl Strategy<Value = VipRange> {
    (any::<u32>(), 8..=29u8).prop_map(|(address, prefix)| {
        VipRange::new((address & (u32::MAX << (32 - prefix))).into(), prefix).expect("a range")
    })
}

fn registration_response() -> impl Strategy<Value = RegistrationResponse> {
    (request(), option::of(vip()), socket(), millis(), relays(), option::of(vips())).prop_map(
        |(request, vip, seen, keep_alive, relays, vips)| RegistrationResponse {
            request,
            vip,
            seen,
            keep_alive,
            relays,
            vips,
        },
    )
}

fn keep_alive() -> impl Strategy<Value = KeepAlive> {
    (request(), any::<Option<u16>>(), rtts()).prop_map(|(request, load, rtts)| KeepAlive {
        request,
        load,
        rtts,
    })
}

fn direction_request() -> impl Strategy<Value = DirectionRequest> {
    let renewal = (path(), role(), any::<u8>(), vip(), option::of(node())).prop_map(
        |(path, role, epoch, peer_vip, keep_relay)| {
            let epoch = Epoch::new(epoch);
            Renewal { path, role, epoch, peer_vip, keep_relay }
        },
    );
    (request(), fqdn(), option::of(renewal), option::of(node()))
        .prop_map(|(request, fqdn, renewal, avoid)| DirectionRequest { request, fqdn, renewal, avoid })
}

fn direction_refusal() -> impl Strategy<Value = DirectionRefusal> {
    let errors = [DnsError::NxDomain, DnsError::NoData, DnsError::ServFail, DnsError::Refused];
    (request(), select(errors.to_vec())).prop_map(|(request, error)| DirectionRefusal { request, error })
}

fn information_response() -> impl Strategy<Value = InformationResponse> {
    let terminal = (node(), any::<u32>(), vip(), list(socket()), socket(), rtts()).prop_map(
        |(node, life, vip, addresses, seen, rtts)| TerminalInformation {
            node,
            life,
            vip,
            addresses,
            seen,
            rtts,
        },
    );
    (request(), option::of(terminal), any::<bool>())
        .prop_map(|(request, terminal, known)| InformationResponse { request, terminal, known })
}

fn relay_direction() -> impl Strategy<Value = RelayDirection> {
    let switch =
        (key(), key(), vip(), vip()).prop_map(|(initiator_key, responder_key, initiator, responder)| {
            RelayOrder::Switch { initiator_key, responder_key, initiator, responder }
        });
    let translate = (key(), vip(), vip(), any::<IpAddr>(), suite()).prop_map(
        |(temp_key, terminal, general, real, suite)| RelayOrder::Translate {
            temp_key,
            terminal,
            general,
            real,
            suite,
        },
    );
    (request(), path(), any::<u8>(), prop_oneof![switch, translate]).prop_map(
        |(request, path, epoch, order)| RelayDirection { request, path, epoch: Epoch::new(epoch), order },
    )
}

fn relay_response() -> impl Strategy<Value = RelayResponse> {
    let answers =
        [RelayAnswer::Ready, RelayAnswer::Full, RelayAnswer::Conflict, RelayAnswer::CannotTranslate];
    (request(), select(answers.to_vec())).prop_map(|(request, answer)| RelayResponse { request, answer })
}

fn route() -> impl Strategy<Value = Route> {
    let direct = (list(socket()), any::<bool>());
    let mode = select(&[RelayMode::Switch, RelayMode::Translate][..]);
    let relayed = (node(), socket(), mode, key(), list(socket()));
    prop_oneof![
        direct.prop_map(|(addresses, start)| Route::Direct { addresses, start }),
        relayed.prop_map(|(relay, address, mode, temp_key, optimise)| {
            Route::Relayed { relay, address, mode, temp_key, optimise }
        }),
    ]
}

fn route_direction() -> impl Strategy<Value = RouteDirection> {
    let what =
        (request(), option::of(request()), node(), any::<u32>(), socket(), path(), any::<u8>(), role());
    let with = (fqdn(), vip(), option::of(key()), suite(), route());
    (what, with).prop_map(
        |(
            (request, answers, target, life, seen, path, epoch, role),
            (peer, peer_vip, path_key, suite, route),
        )| {
            RouteDirection {
                request,
                answers,
                target,
                life,
                seen,
                path,
                epoch: Epoch::new(epoch),
                role,
                peer,
                peer_vip,
                path_key,
                suite,
                route,
            }
        },
    )
}

fn error() -> impl Strategy<Value = Error> {
    let stale = any::<u64>().prop_map(|floor| ErrorCode::Stale { floor });
    let overlap = vips().prop_map(|vips| ErrorCode::Overlap { vips });
    (any::<u64>(), prop_oneof![Just(ErrorCode::NotRegistered), stale, overlap])
        .prop_map(|(sequence, code)| Error { sequence, code })
}

fn boxed<T: Into<Message> + Debug + 'static>(
    strategy: impl Strategy<Value = T> + 'static,
) -> Option<BoxedStrategy<Message>> {
    Some(strategy.prop_map(Into::into).boxed())
}

/// Any message of `kind`; the compiler sees to it that no kind is left out. Data packets are no messages.
fn message(kind: Kind) -> Option<BoxedStrategy<Message>> {
    match kind {
        Kind::RegistrationRequest => boxed(registration_request()),
        Kind::RegistrationResponse => boxed(registration_response()),
        Kind::KeepAlive => boxed(keep_alive()),
        Kind::KeepAliveAnswer => {
            let answer = (request(), socket(), any::<u16>(), relays());
            boxed(answer.prop_map(|(request, seen, load, relays)| KeepAliveAnswer {
                request,
                seen,
                load,
                relays,
            }))
        }
        Kind::DirectionRequest => boxed(direction_request()),
        Kind::DirectionRefusal => boxed(direction_refusal()),
        Kind::InformationRequest => {
            boxed((request(), fqdn()).prop_map(|(request, fqdn)| InformationRequest { request, fqdn }))
        }
        Kind::InformationResponse => boxed(information_response()),
        Kind::RelayDirection => boxed(relay_direction()),
        Kind::RelayResponse => boxed(relay_response()),
        Kind::RouteDirection => boxed(route_direction()),
        Kind::RouteResponse => boxed(
            (request(), any::<bool>()).prop_map(|(request, accepted)| RouteResponse { request, accepted }),
        ),
        Kind::TunnelRequest => boxed(
            (request(), any::<bool>(), option::of(key()))
                .prop_map(|(request, moved, common_key)| TunnelRequest { request, moved, common_key }),
        ),
        Kind::TunnelResponse => boxed(
            (request(), socket(), any::<bool>()).prop_map(|(request, seen, peer_ready)| TunnelResponse {
                request,
                seen,
                peer_ready,
            }),
        ),
        Kind::PathKeepAlive => boxed(request().prop_map(|request| PathKeepAlive { request })),
        Kind::PathKeepAliveAnswer => {
            boxed((request(), socket()).prop_map(|(request, seen)| PathKeepAliveAnswer { request, seen }))
        }
        Kind::Error => boxed(error()),
        Kind::Data => None,
    }
}

fn any_message() -> impl Strategy<Value = Message> {
    proptest::strategy::Union::new(Kind::ALL.iter().filter_map(|kind| message(*kind)))
}

fn encoded(message: &Message) -> Vec<u8> {
    let mut writer = Writer::default();
    message.encode(&mut writer);
    writer.finish()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(1000))]

    #[test]
    fn every_message_reads_back_as_it_was_written(message in any_message()) {
        let body = encoded(&message);
        prop_assert_eq!(Message::decode(message.kind(), &body), Ok(message));
    }

    #[test]
    fn what_follows_a_message_is_refused(message in any_message(), rest in vec(any::<u8>(), 1..20)) {
        let mut body = encoded(&message);
        body.extend_from_slice(&rest);
        let refusal = Message::decode(message.kind(), &body).unwrap_err();
        prop_assert_eq!(refusal, Refusal::new("body", Reason::Trailing(rest.len())));
    }

    #[test]
    fn every_truncation_is_refused_by_the_field_that_it_cuts(message in any_message()) {
        let body = encoded(&message);
        for length in 0..body.len() {
            let refusal = Message::decode(message.kind(), &body[..length]).unwrap_err();
            prop_assert_eq!(&refusal.reason, &Reason::Truncated, "cut to {}", length);
            prop_assert!(!["", "body", message.kind().name()].contains(&refusal.field), "{}", refusal);
        }
    }

    /// No two bodies mean the same: what reads at all is what would have been written.
    #[test]
    fn whatever_reads_was_written_so(message in any_message(), at: Index, bit in 0u8..8) {
        let mut body = encoded(&message);
        let at = at.index(body.len());
        body[at] ^= 1 << bit;
        if let Ok(other) = Message::decode(message.kind(), &body) {
            prop_assert_eq!(encoded(&other), body);
        }
    }

    #[test]
    fn noise_is_no_panic(kind in select(Kind::ALL), body in vec(any::<u8>(), 0..200)) {
        if let Ok(message) = Message::decode(kind, &body) {
            prop_assert_eq!(encoded(&message), body);
        }
    }
}

#[test]
fn data_is_no_message() {
    assert_eq!(Message::decode(Kind::Data, &[]), Err(Refusal::new("type", Reason::Unexpected)));
}

#[test]
fn an_epoch_above_fifteen_is_refused() {
    let response = RelayDirection {
        request: RequestId(1),
        path: PathId([1; 16]),
        epoch: Epoch::new(15),
        order: RelayOrder::Switch {
            initiator_key: SharedKey::new([1; 32]),
            responder_key: SharedKey::new([2; 32]),
            initiator: Vip([198, 18, 0, 1].into()),
            responder: Vip([198, 18, 0, 2].into()),
        },
    };
    let mut writer = Writer::default();
    Message::from(response).encode(&mut writer);
    let mut bytes = writer.finish();
    assert!(Message::decode(Kind::RelayDirection, &bytes).is_ok());
    // Behind the Request ID and the Path ID.
    bytes[8 + 16] = 16;
    let refusal = Message::decode(Kind::RelayDirection, &bytes).unwrap_err();
    assert_eq!((refusal.field, refusal.reason), ("epoch", Reason::Unknown(16)));
}
