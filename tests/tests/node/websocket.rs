//! WebSockets: the handshake passes, and then every byte both ways.

use portsplice_tests::over_paths;
use portsplice_tests::pattern;
use portsplice_tests::rig::Rig;
use portsplice_tests::websocket::{BINARY, CLOSE, echo, frame, open, read_frame};

over_paths! {
    /// Frames of all sizes up to 16 MiB are echoed.
    fn frames_of_16_mebibytes(path) {
        let rig = Rig::new(path);
        let origin = rig.serve(echo);
        let mut conn = rig.connect();
        open(&mut conn, "/chat?room=1");
        let mut writer = conn.writer();
        for len in [0, 1, 125, 126, 65535, 65536, 1 << 20, 16 << 20, 16 << 20] {
            let payload = pattern::bytes(len);
            let out = frame(BINARY, &payload, Some([0x5a, 0xa5, 0x0f, 0xf0]));
            std::thread::scope(|scope| {
                scope.spawn(|| std::io::Write::write_all(&mut writer, &out).expect("taken"));
                let (opcode, back) = read_frame(conn.input()).expect("a frame").expect("not the end");
                assert_eq!(opcode, 2);
                assert!(back == payload, "{len}");
            });
        }
        conn.write(&[0x88, 0x80, 0, 0, 0, 0]);
        assert_eq!(read_frame(conn.input()).expect("a frame"), Some((CLOSE, Vec::new())));
        conn.end();
        origin.check();
    }

    /// The first frame comes in the same write as the handshake's answer.
    fn frame_with_the_handshake(path) {
        let rig = Rig::new(path);
        let _origin = rig.serve(|peer| {
            peer.must_request()?;
            let mut answer = b"HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\
                Sec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n\r\n".to_vec();
            answer.extend(frame(BINARY, b"first", None));
            peer.write(answer)?;
            // And goes on talking on its own.
            for i in 0..100_u8 {
                peer.write(frame(BINARY, &[i], None))?;
            }
            Ok(())
        });
        let mut conn = rig.connect();
        open(&mut conn, "/");
        assert_eq!(read_frame(conn.input()).expect("a frame"), Some((BINARY, b"first".to_vec())));
        for i in 0..100_u8 {
            assert_eq!(read_frame(conn.input()).expect("a frame"), Some((BINARY, vec![i])));
        }
        assert_eq!(read_frame(conn.input()).expect("the end"), None);
    }
}
