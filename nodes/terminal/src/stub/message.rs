//! What a DNS query asks, and the answer to it: pure functions between bytes.
//!
//! Every answer has one question and at most one record and OPT, so it stays below the 512 bytes that any client takes by UDP
//! (RFC 1035, section 4.2.1): nothing is ever cut.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use hickory_proto::op::{Edns, Header, Message, MessageType, Metadata, OpCode, Query, ResponseCode};
use hickory_proto::rr::rdata::{A, AAAA, PTR};
use hickory_proto::rr::{DNSClass, Name, RData, Record, RecordType};
use hickory_proto::serialize::binary::{BinDecodable, BinDecoder};
use ntm_protocol::addr::{Fqdn, Vip};
use ntm_protocol::wire::DnsError;

/// How long, in seconds, a VIP may be kept: the path behind it can end.
const VIP_TTL: u32 = 1;
/// How long, in seconds, an answer about this machine itself may be kept.
const LOCAL_TTL: u32 = 3600;
/// The largest UDP message that is asked for (<https://www.dnsflagday.net/2020/>).
const MAX_UDP: u16 = 1232;

/// What is to be done about a query.
#[derive(Debug)]
pub(crate) enum Asked {
    /// Nothing: it is no query, and an answer might be answered in turn.
    Nothing,
    /// It is answered by these bytes.
    Answered(Vec<u8>),
    /// The address of this name is wanted (T3.2.2-a).
    Address(Question, Fqdn),
    /// The name behind this address is wanted.
    Pointer(Question, Ipv4Addr),
}

/// A question that waits for its answer.
#[derive(Clone, PartialEq, Debug)]
pub(crate) struct Question {
    metadata: Metadata,
    query: Query,
    edns: Option<Edns>,
}

/// Reads a query.
pub(crate) fn read(bytes: &[u8]) -> Asked {
    let Ok(header) = Header::read(&mut BinDecoder::new(bytes)) else { return Asked::Nothing };
    if header.message_type == MessageType::Response {
        return Asked::Nothing;
    }
    let bare = |code| Asked::Answered(answer(&header.metadata, None, None, code, None));
    if header.op_code != OpCode::Query {
        return bare(ResponseCode::NotImp);
    }
    if header.counts.queries != 1 {
        return bare(ResponseCode::FormErr);
    }
    let mut decoder = BinDecoder::new(bytes);
    match Message::read(&mut decoder) {
        Ok(mut message) if decoder.is_empty() => match message.queries.pop() {
            Some(query) => judge(Question { metadata: message.metadata, query, edns: message.edns }),
            None => bare(ResponseCode::FormErr),
        },
        _ => bare(ResponseCode::FormErr),
    }
}

fn judge(question: Question) -> Asked {
    if question.edns.as_ref().is_some_and(|edns| edns.version() > 0) {
        return Asked::Answered(question.fail(ResponseCode::BADVERS));
    }
    let (name, kind) = (&question.query.name, question.query.query_type);
    if question.query.query_class != DNSClass::IN || matches!(kind, RecordType::AXFR | RecordType::IXFR) {
        return Asked::Answered(question.fail(ResponseCode::Refused));
    }
    if name.is_root() {
        return Asked::Answered(question.empty());
    }
    if name.is_localhost() {
        return Asked::Answered(question.localhost());
    }
    if is_reverse(name) {
        return match (reversed(name), kind) {
            (Some(address), RecordType::PTR) => Asked::Pointer(question, address),
            _ => Asked::Answered(question.fail(ResponseCode::NXDomain)),
        };
    }
    // What can be no host's name, or stands in no zone, is not in the DNS.
    match Fqdn::new(&name.to_ascii()) {
        Ok(fqdn) if fqdn.parent().is_some() => match kind {
            // ANY gets one of the records that there are (RFC 8482, section 4.1).
            RecordType::A | RecordType::ANY => Asked::Address(question, fqdn),
            // A VIP is an IPv4 address, and NTMobile knows nothing else of a name.
            _ => Asked::Answered(question.empty()),
        },
        _ => Asked::Answered(question.fail(ResponseCode::NXDomain)),
    }
}

/// Whether `name` is one of those that stand for addresses.
fn is_reverse(name: &Name) -> bool {
    name.iter().next_back().is_some_and(|label| label.eq_ignore_ascii_case(b"arpa"))
}

/// The whole IPv4 address that `name` stands for.
fn reversed(name: &Name) -> Option<Ipv4Addr> {
    let network = name.parse_arpa_name().ok()?;
    match (network.addr(), network.prefix_len()) {
        (IpAddr::V4(address), 32) => Some(address),
        _ => None,
    }
}

impl Question {
    /// The answer with the name's virtual address (T3.2.3-b), or with why there is none.
    pub(crate) fn resolved(&self, result: Result<Vip, DnsError>) -> Vec<u8> {
        match result {
            Ok(Vip(address)) => self.record(VIP_TTL, RData::A(A(address))),
            Err(DnsError::NxDomain) => self.fail(ResponseCode::NXDomain),
            Err(DnsError::NoData) => self.empty(),
            Err(DnsError::ServFail) => self.fail(ResponseCode::ServFail),
            Err(DnsError::Refused) => self.fail(ResponseCode::Refused),
        }
    }

    /// The answer with the name of an address, which has none if no path leads there.
    pub(crate) fn named(&self, name: Option<&Fqdn>) -> Vec<u8> {
        match name.and_then(|name| Name::from_ascii(format!("{name}.")).ok()) {
            Some(name) => self.record(VIP_TTL, RData::PTR(PTR(name))),
            None => self.fail(ResponseCode::NXDomain),
        }
    }

    /// The ID and the question as it was written: what a repetition has in common with the first.
    pub(crate) fn key(&self) -> (u16, String) {
        (self.metadata.id, self.query.to_string())
    }

    /// Names below `localhost` mean this machine (RFC 6761, section 6.3).
    fn localhost(&self) -> Vec<u8> {
        match self.query.query_type {
            RecordType::A | RecordType::ANY => self.record(LOCAL_TTL, RData::A(A(Ipv4Addr::LOCALHOST))),
            RecordType::AAAA => self.record(LOCAL_TTL, RData::AAAA(AAAA(Ipv6Addr::LOCALHOST))),
            _ => self.empty(),
        }
    }

    fn record(&self, ttl: u32, data: RData) -> Vec<u8> {
        let record = Record::from_rdata(self.query.name.clone(), ttl, data);
        self.answer(ResponseCode::NoError, Some(record))
    }

    fn empty(&self) -> Vec<u8> {
        self.answer(ResponseCode::NoError, None)
    }

    fn fail(&self, code: ResponseCode) -> Vec<u8> {
        self.answer(code, None)
    }

    fn answer(&self, code: ResponseCode, record: Option<Record>) -> Vec<u8> {
        answer(&self.metadata, Some(&self.query), self.edns.as_ref(), code, record)
    }
}

fn answer(
    asked: &Metadata,
    query: Option<&Query>,
    edns: Option<&Edns>,
    code: ResponseCode,
    record: Option<Record>,
) -> Vec<u8> {
    let mut message = Message::response(asked.id, asked.op_code);
    message.metadata = Metadata::response_from_request(asked);
    message.metadata.recursion_available = true;
    message.metadata.response_code = code;
    message.queries.extend(query.cloned());
    message.answers.extend(record);
    message.edns = edns.map(|asked| {
        let mut edns = Edns::new();
        edns.set_max_payload(MAX_UDP).set_dnssec_ok(asked.flags().dnssec_ok);
        edns
    });
    message.to_vec().expect("what was read can be written, and one record more always fits")
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn query(name: &str, kind: RecordType) -> Message {
        let mut message = Message::new(4711, MessageType::Query, OpCode::Query);
        message.metadata.recursion_desired = true;
        message.add_query(Query::query(Name::from_ascii(name).expect("a name"), kind));
        message
    }

    fn bytes(message: &Message) -> Vec<u8> {
        message.to_vec().expect("a message")
    }

    fn parse(bytes: &[u8]) -> Message {
        Message::from_vec(bytes).expect("a message")
    }

    fn answered(message: &Message) -> Message {
        match read(&bytes(message)) {
            Asked::Answered(bytes) => parse(&bytes),
            other => panic!("{message} is not answered at once: {other:?}"),
        }
    }

    fn at_once(name: &str, kind: RecordType) -> (ResponseCode, Vec<String>) {
        let answer = answered(&query(name, kind));
        (answer.response_code, answer.answers.iter().map(|record| record.data.to_string()).collect())
    }

    fn code(answer: &[u8]) -> ResponseCode {
        parse(answer).response_code
    }

    #[test]
    fn an_address_is_asked_for_and_answered() {
        let asked = query("CN.dc.Test.", RecordType::A);
        let Asked::Address(question, name) = read(&bytes(&asked)) else { panic!("not asked for") };
        assert_eq!(name.as_str(), "cn.dc.test", "names are the same in either case");
        let answer = question.resolved(Ok(Vip([198, 18, 0, 7].into())));
        assert!(answer.len() < 512);
        let answer = parse(&answer);
        assert_eq!((answer.id, answer.message_type), (4711, MessageType::Response));
        assert!(answer.recursion_desired && answer.recursion_available && !answer.authoritative);
        assert!(answer.queries[0].name.eq_case(&asked.queries[0].name), "the question is copied");
        let record = &answer.answers[0];
        assert_eq!((record.ttl, record.data.to_string().as_str()), (1, "198.18.0.7"));
        assert!(answer.edns.is_none(), "EDNS only for those who speak it (RFC 6891, section 7)");

        for (error, expected) in [
            (DnsError::NxDomain, ResponseCode::NXDomain),
            (DnsError::NoData, ResponseCode::NoError),
            (DnsError::ServFail, ResponseCode::ServFail),
            (DnsError::Refused, ResponseCode::Refused),
        ] {
            let answer = parse(&question.resolved(Err(error)));
            assert_eq!((answer.response_code, answer.answers.len()), (expected, 0));
        }
    }

    #[test]
    fn any_means_the_address() {
        assert!(matches!(read(&bytes(&query("cn.test.", RecordType::ANY))), Asked::Address(..)));
    }

    #[test]
    fn other_types_of_a_name_are_empty() {
        for kind in [RecordType::AAAA, RecordType::TXT, RecordType::HTTPS, RecordType::Unknown(65280)] {
            assert_eq!(at_once("cn.dc.test.", kind), (ResponseCode::NoError, vec![]), "{kind}");
        }
        assert_eq!(at_once(".", RecordType::NS), (ResponseCode::NoError, vec![]));
    }

    #[test]
    fn localhost_is_this_machine() {
        let known = |address: &str| (ResponseCode::NoError, vec![address.to_owned()]);
        assert_eq!(at_once("localhost.", RecordType::A), known("127.0.0.1"));
        assert_eq!(at_once("a.LOCALHOST.", RecordType::AAAA), known("::1"));
        assert_eq!(at_once("localhost.", RecordType::MX), (ResponseCode::NoError, vec![]));
    }

    #[test]
    fn what_is_no_hosts_name_does_not_exist() {
        for name in ["printer.", "a\\.b.test.", "*.test."] {
            assert_eq!(at_once(name, RecordType::A), (ResponseCode::NXDomain, vec![]), "{name}");
        }
    }

    #[test]
    fn the_name_behind_an_address_is_asked_for() {
        let asked = bytes(&query("7.0.18.198.IN-ADDR.arpa.", RecordType::PTR));
        let Asked::Pointer(question, address) = read(&asked) else { panic!("not asked for") };
        assert_eq!(address.to_string(), "198.18.0.7");
        let answer = parse(&question.named(Some(&"cn.dc.test".parse().expect("a name"))));
        assert_eq!((answer.answers[0].ttl, answer.answers[0].data.to_string().as_str()), (1, "cn.dc.test."));
        assert_eq!(code(&question.named(None)), ResponseCode::NXDomain);
        for name in ["18.198.in-addr.arpa.", "300.0.18.198.in-addr.arpa.", "1.ip6.arpa.", "arpa."] {
            assert_eq!(at_once(name, RecordType::PTR).0, ResponseCode::NXDomain, "{name}");
        }
        assert_eq!(at_once("7.0.18.198.in-addr.arpa.", RecordType::A).0, ResponseCode::NXDomain);
    }

    #[test]
    fn edns_is_echoed() {
        let mut asked = query("cn.dc.test.", RecordType::AAAA);
        let mut edns = Edns::new();
        edns.set_max_payload(4096).set_dnssec_ok(true);
        asked.set_edns(edns);
        let echoed = answered(&asked).edns.expect("EDNS");
        assert_eq!((echoed.version(), echoed.max_payload(), echoed.flags().dnssec_ok), (0, 1232, true));

        asked.edns.as_mut().expect("EDNS").set_version(1);
        let answer = answered(&asked);
        assert_eq!(u16::from(answer.response_code), 16, "BADVERS (RFC 6891, section 6.1.3)");
        assert_eq!(answer.edns.expect("EDNS").version(), 0);
    }

    #[test]
    fn what_is_no_ordinary_question_gets_the_error_for_it() {
        let mut chaos = query("version.bind.", RecordType::TXT);
        chaos.queries[0].query_class = DNSClass::CH;
        assert_eq!(answered(&chaos).response_code, ResponseCode::Refused);
        assert_eq!(at_once("test.", RecordType::AXFR).0, ResponseCode::Refused);
        for op_code in [OpCode::Notify, OpCode::Update, OpCode::Status] {
            let mut other = query("cn.test.", RecordType::A);
            other.metadata.op_code = op_code;
            let answer = answered(&other);
            assert_eq!((answer.response_code, answer.op_code), (ResponseCode::NotImp, op_code));
        }
    }

    #[test]
    fn malformed_queries_get_a_format_error() {
        let good = bytes(&query("cn.dc.test.", RecordType::A));
        let format_error = |bytes: &[u8]| match read(bytes) {
            Asked::Answered(answer) => {
                let answer = parse(&answer);
                (answer.id, answer.response_code) == (4711, ResponseCode::FormErr)
                    && answer.queries.is_empty()
            }
            _ => false,
        };
        for end in 12..good.len() {
            assert!(format_error(&good[..end]), "cut after {end} bytes");
        }
        assert!(format_error(&[&good[..], &[0]].concat()), "a byte too many");
        let mut many = good.clone();
        many[4..6].copy_from_slice(&[0xff, 0xff]);
        assert!(format_error(&many), "65535 questions");
        let mut none = good.clone();
        none[5] = 0;
        assert!(format_error(&none), "no question");
        let mut pointer = good.clone();
        pointer[12..14].copy_from_slice(&[0xc0, 12]);
        assert!(format_error(&pointer), "a name that points at itself");
    }

    #[test]
    fn what_is_no_query_is_not_answered() {
        let mut response = query("cn.dc.test.", RecordType::A);
        response.metadata.message_type = MessageType::Response;
        assert!(matches!(read(&bytes(&response)), Asked::Nothing));
        for length in 0..12 {
            assert!(matches!(read(&vec![0; length]), Asked::Nothing), "{length} bytes");
        }
    }

    proptest! {
        /// Whatever comes, the answer is a small DNS message with the query's ID.
        #[test]
        fn nothing_breaks_the_reader(
            mut bytes in prop_oneof![
                proptest::collection::vec(any::<u8>(), 0..80),
                Just(bytes(&query("cn.dc.test.", RecordType::A))),
            ],
            changes in proptest::collection::vec((any::<proptest::sample::Index>(), any::<u8>()), 0..4),
        ) {
            for (at, byte) in changes {
                if !bytes.is_empty() {
                    let at = at.index(bytes.len());
                    bytes[at] = byte;
                }
            }
            let answer = match read(&bytes) {
                Asked::Nothing => return Ok(()),
                Asked::Answered(answer) => answer,
                Asked::Address(question, _) => question.resolved(Ok(Vip([198, 18, 0, 7].into()))),
                Asked::Pointer(question, _) => question.named(None),
            };
            prop_assert!(answer.len() <= 512);
            prop_assert_eq!(&answer[..2], &bytes[..2]);
            prop_assert!(Message::from_vec(&answer).is_ok());
        }
    }
}
