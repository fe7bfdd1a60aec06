//! A film made by ffmpeg, and the programs that people watch and fetch films with: curl, wget, ffprobe, Chromium.

#![allow(clippy::unwrap_used)]

use std::{
    fs,
    io::{Read, Write},
    net::{SocketAddr, TcpListener},
    path::{Path, PathBuf},
    process::Command,
    time::Duration,
};

use reel_tests::{
    browser::Browser,
    process::{Store, Up},
};
use serde_json::Value;

/// Smallest film, bytes: larger than every buffer on its way.
const FILM_BYTES_MIN: u64 = 50 << 20;
/// Its length, seconds.
const FILM_SECONDS: u32 = 24;

/// Whether a program is there; says that the test skips where it is not.
fn has(program: &str) -> bool {
    let there = Command::new(program).arg("--version").output().is_ok();
    if !there {
        println!("skipped: {program} is not installed (cargo xtask setup)");
    }
    there
}

/// H.264 and AAC in an MP4 whose index comes first, as players like it. Noise makes it as large as a real film.
fn film(folder: &Path) -> PathBuf {
    let path = folder.join("film.mp4");
    let picture = format!("testsrc2=size=1280x720:rate=25:duration={FILM_SECONDS}");
    let sound = format!("sine=frequency=440:duration={FILM_SECONDS}");
    let made = Command::new("ffmpeg")
        .args(["-v", "error", "-f", "lavfi", "-i", &picture, "-f", "lavfi", "-i", &sound])
        .args(["-vf", "noise=alls=12:allf=t", "-c:v", "libx264", "-preset", "ultrafast"])
        .args(["-b:v", "20M", "-minrate", "20M", "-maxrate", "20M", "-bufsize", "20M"])
        .args(["-x264-params", "nal-hrd=cbr", "-g", "50", "-pix_fmt", "yuv420p"])
        .args(["-c:a", "aac", "-movflags", "+faststart"])
        .arg(&path)
        .status()
        .unwrap();
    assert!(made.success());
    let size = fs::metadata(&path).unwrap().len();
    assert!(size >= FILM_BYTES_MIN, "the film has only {size} bytes");
    path
}

fn run(command: &mut Command) -> Vec<u8> {
    let output = command.output().unwrap();
    let told = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{command:?}: {}\n{told}", output.status);
    output.stdout
}

#[test]
fn a_film_is_uploaded_fetched_probed_and_played() {
    if !has("ffmpeg") {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let film = film(folder.path());
    let bytes = fs::read(&film).unwrap();
    let store = Up::new(&folder.path().join("data")).start().unwrap();
    let put = store.reel(&["put", &film.display().to_string(), "--json"]).unwrap();
    let put: Value = serde_json::from_str(&put).unwrap();
    let (id, url) = (put["id"].as_str().unwrap(), put["url"].as_str().unwrap());

    let copy = folder.path().join("copy.mp4");
    store.reel(&["get", id, "-o", &copy.display().to_string()]).unwrap();
    assert!(fs::read(&copy).unwrap() == bytes, "reel get gives other bytes");
    let of_the_node =
        url.replace(&store.addresses.gateway.to_string(), &store.addresses.media.to_string());
    for url in [url, &of_the_node] {
        fetch(url, &bytes, folder.path());
        probe(url);
    }
    play(&store, url);
    store.drain().unwrap();
}

fn fetch(url: &str, bytes: &[u8], folder: &Path) {
    if has("curl") {
        let middle = bytes.len() / 2;
        for (range, expected) in [
            ("0-99".to_owned(), &bytes[..100]),
            (format!("{middle}-{}", middle + 999_999), &bytes[middle..middle + 1_000_000]),
            ("-1000".to_owned(), &bytes[bytes.len() - 1000..]),
        ] {
            let got = run(Command::new("curl").args(["-sSf", "-r", &range, url]));
            assert!(got == expected, "curl -r {range}: other bytes");
        }
    }
    if has("wget") {
        let path = folder.join("wget.mp4");
        run(Command::new("wget").args(["-q", "-O"]).arg(&path).arg(url));
        assert!(fs::read(&path).unwrap() == bytes, "wget: other bytes");
        // A download that broke off, as wget goes on with it.
        fs::OpenOptions::new().write(true).open(&path).unwrap().set_len(10_000_000).unwrap();
        run(Command::new("wget").args(["-q", "-c", "-O"]).arg(&path).arg(url));
        assert!(fs::read(&path).unwrap() == bytes, "wget -c: other bytes");
    }
}

fn probe(url: &str) {
    let probed = run(Command::new("ffprobe")
        .args(["-v", "error", "-of", "json", "-show_entries"])
        .args(["format=duration:stream=codec_name", url]));
    let probed: Value = serde_json::from_slice(&probed).unwrap();
    let codecs: Vec<&str> = probed["streams"]
        .as_array()
        .unwrap()
        .iter()
        .map(|stream| stream["codec_name"].as_str().unwrap())
        .collect();
    assert_eq!(codecs, ["h264", "aac"]);
    let duration: f64 = probed["format"]["duration"].as_str().unwrap().parse().unwrap();
    assert!((duration - f64::from(FILM_SECONDS)).abs() < 1.0, "{duration} s");
}

/// Plays from the beginning, then seeks to the middle and near the end, and says what it saw.
const PLAY: &str = r#"(async () => {
  const video = document.querySelector('video');
  const event = (name, after) => new Promise((good, bad) => {
    video.addEventListener(name, good, { once: true });
    video.addEventListener('error', () => bad(new Error('video: ' + video.error.message + ' of ' + video.currentSrc)));
    after && after();
  });
  const beyond = (time) => new Promise((good) => {
    const look = () => video.currentTime > time ? good() : setTimeout(look, 20);
    look();
  });
  if (video.error) throw new Error('video: ' + video.error.message + ' of ' + video.currentSrc);
  if (video.readyState < 1) await event('loadedmetadata');
  await video.play();
  await beyond(0.5);
  const seen = [video.currentTime];
  for (const part of [0.5, 0.95]) {
    const target = video.duration * part;
    await event('seeked', () => { video.currentTime = target; });
    await beyond(target + 0.2);
    seen.push(video.currentTime / video.duration);
  }
  video.pause();
  return { seen, duration: video.duration, width: video.videoWidth,
           frames: video.getVideoPlaybackQuality().totalVideoFrames };
})()"#;

/// A web site of somebody's own that shows the film: another origin, also on loopback, because a browser lets no page
/// from elsewhere (not even a `data:` one) talk to this machine.
fn site(page: String) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    let length = page.len();
    let head = "HTTP/1.1 200 OK\r\nContent-Type: text/html\r\nConnection: close";
    let response = format!("{head}\r\nContent-Length: {length}\r\n\r\n{page}");
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let Ok(mut stream) = stream else { return };
            // A request for a page fits one packet on loopback.
            let _ = stream.read(&mut [0; 8192]);
            let _ = stream.write_all(response.as_bytes());
        }
    });
    address
}

fn play(store: &Store, url: &str) {
    if !has("chromium") {
        return;
    }
    let mut browser = Browser::start().unwrap();
    let site = site(format!("<body style='margin:0'><video muted width=1000 src='{url}'>"));
    browser.open(&format!("http://{site}/")).unwrap();
    while browser.evaluate("document.querySelector('video') === null").unwrap() == true {
        std::thread::sleep(Duration::from_millis(20));
    }
    let seen = browser.evaluate(PLAY).unwrap();
    assert_eq!(seen["width"], 1280, "{seen}");
    assert!(seen["frames"].as_u64().unwrap() > 10, "{seen}");
    let places: Vec<f64> =
        seen["seen"].as_array().unwrap().iter().map(|place| place.as_f64().unwrap()).collect();
    assert!(places[0] > 0.5 && places[1] > 0.5 && places[2] > 0.95, "{seen}");
    let picture = Path::new(env!("CARGO_TARGET_TMPDIR")).join("film.png");
    browser.screenshot(&picture).unwrap();
    println!("the film near its end: {}", picture.display());
    assert!(fs::metadata(&picture).unwrap().len() > 50_000, "an empty picture");
    drop(browser);
    // Seeking is what ranges are for: the store has served partial responses.
    let metrics =
        reel_tests::http::request(store.addresses.engine_admin, "GET", "/metrics", &[], None);
    assert_eq!(metrics.unwrap().status, 200);
}
