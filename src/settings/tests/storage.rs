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
    assert!(Settings::load_without_secrets(&locator).is_ok());
    assert!(Settings::load(&locator).unwrap_err().to_string().contains("is not set"));
}

#[test]
fn a_directory_in_memory_is_warned_about_where_refresh_tokens_are_kept() {
    let in_memory = Environment { is_volatile: |dir| dir.starts_with("/run"), ..environment() };
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
    let is_volatile = Environment::of_process().is_volatile;
    // Linux mounts a tmpfs there; what does not exist yet is judged by where it would be.
    assert!(is_volatile(Path::new("/dev/shm/not/there/yet")));
    assert!(!is_volatile(Path::new("/proc")));
}

#[test]
fn check_says_whether_records_are_encrypted() {
    let storage = |text: &str| load(text).unwrap().storage();
    assert!(storage("").contains("/etc/bearerd/state") && storage("").contains("plain text"));
    let sealed = storage("[store]\nkey = { env = \"STORE_KEY\" }\n");
    assert!(sealed.contains("encrypted") && !sealed.contains("plain"), "{sealed}");
}
