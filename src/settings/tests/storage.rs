//! `[store]`: its keys, and where a directory is a bad place.

use super::*;

fn warnings(text: &str, environment: &Environment) -> String {
    let settings = Settings::from_text("proxy.toml", Path::new("/etc/bearerd"), text, environment);
    settings.unwrap().warnings.to_string()
}

#[test]
fn what_is_no_key_is_refused_with_the_command_that_makes_one() {
    let weak = |_: &SecretSource| Ok(Secret::new("hunter2-hunter2".to_owned()));
    for (line, column) in [("key = { env = \"K\" }", 7), ("old_keys = [{ env = \"K\" }]", 13)] {
        let text = format!("[store]\n{line}\n");
        let environment = Environment { read_secret: weak, ..environment() };
        let report = Settings::from_text("proxy.toml", Path::new("/"), &text, &environment);
        let report = report.unwrap_err().to_string();
        assert!(report.contains(&format!("--> proxy.toml:2:{column}\n")), "{report}");
        assert!(report.contains("32 bytes") && report.contains("openssl rand -base64 32"));
        assert!(!report.contains("hunter2"), "{report}");
    }
    refused(
        "[store]\nkey = \"hunter2\"\n",
        "2:7",
        "the secret itself does not belong in this file",
    );
}

#[test]
fn a_key_that_nothing_uses_is_warned_about() {
    let text = "[store]\nurl = \"memory:\"\nkey = { env = \"STORE_KEY\" }\n";
    assert!(report(text).contains("`store.key` is not used"), "{}", report(text));
}

/// `bearerd run --config <(…)` and a SIGHUP.
#[test]
fn a_configuration_that_came_through_a_pipe_is_not_read_a_second_time() {
    let dir = tempfile::tempdir().unwrap();
    let pipe = dir.path().join("pipe");
    let (kind, mode) = (rustix::fs::FileType::Fifo, rustix::fs::Mode::RWXU);
    rustix::fs::mknodat(rustix::fs::CWD, &pipe, kind, mode, 0).unwrap();
    let path = pipe.clone();
    let writer = std::thread::spawn(move || std::fs::write(path, "[proxy]\nthreads = 1\n"));
    let locator = Locator { explicit: Some(pipe), variable: None };
    let (first, inputs) = Settings::load_again(&locator, &Inputs::default());
    writer.join().unwrap().unwrap();
    let (second, _) = Settings::load_again(&locator, &inputs);
    assert_eq!((first.unwrap().threads, second.unwrap().threads), (1, 1));
}

/// `bearerd status` asks only where things are.
#[test]
fn a_store_key_is_not_needed_where_no_secret_is_read() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("proxy.toml");
    std::fs::write(&path, "[store]\nkey = { env = \"BEARERD_TEST_NO_SUCH_KEY\" }\n").unwrap();
    let locator = Locator { explicit: Some(path), variable: None };
    assert!(Settings::load_without_secrets(&locator).0.is_ok());
    assert!(Settings::load(&locator).unwrap_err().to_string().contains("is not set"));
}

#[test]
fn a_directory_in_memory_is_warned_about_where_refresh_tokens_are_kept() {
    let volatility = |dir: &Path| dir.starts_with("/run").then_some(Volatility::Memory);
    let in_memory = Environment { volatility, ..environment() };
    let of = |url: &str| format!("{}[store]\nurl = \"{url}\"\n", credential(""));
    assert!(warnings(&of("file:/run/state"), &in_memory).contains("tmpfs"));
    assert!(!warnings(&of("file:/var/state"), &in_memory).contains("tmpfs"));
    let repeatable = "grant = \"client_credentials\"";
    let text = credential(repeatable).replace("refresh_token = { env = \"R\" }\n", "");
    let text = format!("{text}[store]\nurl = \"file:/run/state\"\n");
    assert!(!warnings(&text, &in_memory).contains("tmpfs"));
    let by_systemd = Environment { state_directory: Some("/run/x".into()), ..in_memory };
    assert!(warnings(&credential(""), &by_systemd).contains("tmpfs"));
}

#[test]
fn this_machine_s_file_systems_are_told_apart() {
    let volatility = Environment::of_process().volatility;
    // Linux mounts a tmpfs there; what does not exist yet is judged by where it would be.
    assert_eq!(volatility(Path::new("/dev/shm/not/there/yet")), Some(Volatility::Memory));
    assert_eq!(volatility(Path::new("/proc")), None);
}

#[test]
fn check_says_whether_records_are_encrypted() {
    let storage = |text: &str| load(text).unwrap().storage();
    assert!(storage("").contains("/etc/bearerd/state") && storage("").contains("plain text"));
    let sealed = storage("[store]\nkey = { env = \"STORE_KEY\" }\n");
    assert!(sealed.contains("encrypted") && !sealed.contains("plain"), "{sealed}");
}

#[test]
fn the_layer_of_a_container_is_warned_about_where_refresh_tokens_are_kept() {
    let volatility = |dir: &Path| (!dir.starts_with("/data")).then_some(Volatility::Layer);
    let in_container = Environment { volatility, ..environment() };
    let of = |url: &str| format!("{}[store]\nurl = \"{url}\"\n", credential(""));
    let report = warnings(&of("file:/var/state"), &in_container);
    assert!(
        report.contains("overlayfs") && report.contains("mount a persistent volume"),
        "{report}"
    );
    assert!(report.contains("--> proxy.toml:9:7\n"), "{report}");
    assert!(warnings(&credential(""), &in_container).contains("overlayfs"));
    assert!(!warnings(&of("file:/data/state"), &in_container).contains("overlayfs"));
    let by_systemd = Environment { state_directory: Some("/data/x".into()), ..in_container };
    assert!(!warnings(&credential(""), &by_systemd).contains("overlayfs"));
}

#[test]
fn plain_records_are_read_beside_a_key_only_if_the_file_says_so() {
    let keys = |text: &str| match load(&format!("[store]\n{text}")).unwrap().store {
        store::Config::File { keys, .. } => keys,
        store::Config::Memory => panic!("a file store"),
    };
    let key = "key = { env = \"STORE_KEY\" }";
    for (text, plain, old) in [
        ("", true, 0),
        (key, false, 0),
        ("old_keys = [{ env = \"STORE_KEY\" }]", true, 1),
        (&format!("{key}\nold_keys = [\"plain\"]"), true, 0),
        (&format!("{key}\nold_keys = \"plain\""), true, 0),
        (&format!("{key}\nold_keys = [{{ env = \"STORE_KEY_2\" }}, \"plain\"]"), true, 1),
        (&format!("{key}\nold_keys = [{{ env = \"STORE_KEY_2\" }}]"), false, 1),
    ] {
        let found = keys(text);
        assert_eq!((found.accepts_plain(), found.old.len()), (plain, old), "{text}");
    }
    assert!(store::EncryptionKeys::default().accepts_plain());
    assert!(report("[store]\nold_keys = [\"plain\"]\n").contains("all records are plain"));
    refused(
        &format!("[store]\n{key}\nold_keys = [\"plian\"]\n"),
        "3:13",
        "the secret itself does not belong in this file",
    );
}
