use proptest::prelude::*;

use super::*;

fn head(bytes: &[u8]) -> Head {
    Head::parse(*bytes.first_chunk().unwrap()).unwrap()
}

fn parsed(bytes: &[u8], inflater: &mut Inflater) -> Control {
    let Head::Control { kind, flags, length } = head(bytes) else { panic!("a data frame") };
    assert_eq!(bytes.len(), HEAD + length as usize);
    Control::parse(kind, flags, &bytes[HEAD..], inflater).unwrap()
}

#[test]
fn what_is_written_is_read_again() {
    let (mut encoder, mut inflater) = (Encoder::new().unwrap(), Inflater::new());
    let headers = Headers(vec![("streamtype".into(), "stdout".into())]);
    let mut out = Vec::new();
    encoder.syn_stream(&mut out, 5, &headers).unwrap();
    assert_eq!(parsed(&out, &mut inflater), Control::SynStream { stream: 5, fin: false, headers });
    out.clear();
    encoder.syn_reply(&mut out, 5).unwrap();
    assert_eq!(parsed(&out, &mut inflater), Control::SynReply { stream: 5, fin: false });
    out.clear();
    reset(&mut out, 7, Reset::Refused);
    assert_eq!(parsed(&out, &mut inflater), Control::Reset { stream: 7 });
    assert_eq!(out[HEAD + 7], 3);
    out.clear();
    ping(&mut out, 9);
    assert_eq!(parsed(&out, &mut inflater), Control::Ping { id: 9 });
    out.clear();
    go_away(&mut out, 3);
    assert_eq!(parsed(&out, &mut inflater), Control::GoAway);
    out.clear();
    data(&mut out, 11, true, b"abc");
    assert_eq!(head(&out), Head::Data { stream: 11, fin: true, length: 3 });
}

#[test]
fn settings_and_window_updates_are_passed_over() {
    let mut inflater = Inflater::new();
    for kind in [4, 9, 77] {
        assert_eq!(Control::parse(kind, 0, &[0; 8], &mut inflater).unwrap(), Control::Ignored);
    }
}

#[test]
fn a_wrong_version_and_a_large_frame_are_named() {
    assert_eq!(Head::parse([0x80, 2, 0, 1, 0, 0, 0, 4]), Err(FrameError::Version { version: 2 }));
    let large = Head::parse([0x80, 3, 0, 4, 0, 0xff, 0, 0]).unwrap_err();
    assert_eq!(large.to_string(), "a control frame of type 4 has 16711680 bytes: the limit is 65536");
    assert_eq!(Head::parse([0; 8]), Err(FrameError::NoStream));
}

proptest! {
    #[test]
    fn no_bytes_make_the_parser_panic(
        bytes: [u8; HEAD],
        kind in 0u16..12,
        flags: u8,
        payload in proptest::collection::vec(any::<u8>(), 0..200),
    ) {
        let _ = Head::parse(bytes);
        let _ = Control::parse(kind, flags, &payload, &mut Inflater::new());
    }

    #[test]
    fn a_damaged_header_block_does_not_make_it_panic(at in 0usize..60, bit in 0u8..8) {
        let mut encoder = Encoder::new().unwrap();
        let mut out = Vec::new();
        let headers = Headers(vec![("port".into(), "8080".into()), ("requestid".into(), "17".into())]);
        encoder.syn_stream(&mut out, 1, &headers).unwrap();
        let at = HEAD + at % (out.len() - HEAD);
        out[at] ^= 1 << bit;
        let _ = Control::parse(1, 0, &out[HEAD..], &mut Inflater::new());
    }
}
