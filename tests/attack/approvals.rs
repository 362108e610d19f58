//! Approvals that do not hold, and ways around the paths of one that does. Every signature is made by ssh-keygen.

use super::house::{House, INSTANCE, SECRET};
use super::support::need;

fn ready() -> bool {
    need(&["ssh-keygen", "mkfs.ext4"])
}

const LS: [&str; 5] = ["ls", INSTANCE, "/etc", "--approval", "a.json"];

#[test]
fn a_stated_approval_is_whole_or_shows_what_is_missing() {
    if !ready() {
        return;
    }
    let house = House::stated();
    let said = house.exits(3, &["ls", INSTANCE, "/etc", "--ticket", "T-1"]);
    assert!(said.contains("--approved-by, --reason missing"), "{said}");
    assert!(
        said.contains(&format!("ls {INSTANCE} /etc --ticket T-1 --approved-by WHO --reason 'WHY'")),
        "{said}"
    );
    let said =
        house.exits(0, &["ls", INSTANCE, "/etc", "--ticket", "T", "--approved-by", "x", "--reason", "y"]);
    assert!(said.contains("hostname"));
    house.exits(0, &["log", "verify", "--against", "kept"]);
}

#[test]
fn enough_people_with_keys_of_every_kind() {
    if !ready() {
        return;
    }
    let house = House::signed(3);
    let mut allowed = String::new();
    for (who, kind) in [("erin", "ecdsa"), ("rose", "rsa"), ("edda", "ed25519")] {
        house.key(who, kind);
        allowed += &house.allow(who, who, "");
    }
    house.write("allowed", &allowed);
    house.approve("a.json", &[], &["erin", "rose", "edda"]);
    let said = house.exits(0, &["approval", "verify", "a.json"]);
    for kind in ["ecdsa-sha2-nistp256", "ssh-rsa", "ssh-ed25519"] {
        assert!(said.contains(kind), "{said}");
    }
    // The fingerprints as ssh-keygen says them.
    for who in ["erin", "rose", "edda"] {
        let listed = super::support::run("ssh-keygen", &["-lf", &house.path(who).to_string_lossy()]);
        let listed = String::from_utf8(listed).unwrap();
        assert!(said.contains(listed.split(' ').nth(1).unwrap()), "{said}");
    }
    assert!(house.exits(0, &LS).contains("hostname"));
}

#[test]
fn an_approval_that_does_not_hold() {
    if !ready() {
        return;
    }
    // Each attempt makes a.json in a house that wants two approvers, and is refused with its own message.
    type Attempt = fn(&mut House);
    let attempts: &[(&str, Attempt)] = &[
        ("2 people have to sign: 1 of them", |h| h.approve("a.json", &[], &["alice"])),
        ("2 people have to sign: there are no signatures", |h| h.request("a.json", &[])),
        ("signed with a key that is not allowed", |h| h.approve("a.json", &[], &["alice", "mallory"])),
        ("signed in the namespace `file`", |h| {
            h.approve("a.json", &[], &["alice"]);
            h.sign_in("a.json", "bob", "file");
        }),
        ("the signature is not over this document", |h| {
            h.approve("a.json", &[], &["alice", "bob"]);
            let text = h.read("a.json").replacen("why", "whY", 1);
            h.write("a.json", &text);
        }),
        ("the signature is not over this document", |h| {
            h.approve("a.json", &[], &["alice", "bob"]);
            h.approve("b.json", &["--whole-disk"], &[]);
            std::fs::rename(h.path("b.json"), h.path("a.json")).unwrap();
        }),
        ("the same person has signed with another key", |h| {
            h.key("alice2", "ed25519");
            let more = h.read("allowed") + &h.allow("alice", "alice2", "");
            h.write("allowed", &more);
            h.approve("a.json", &[], &["alice", "alice2"]);
        }),
        ("the key has signed already", |h| {
            h.approve("a.json", &[], &["alice"]);
            let signature = h.read("a.json.alice.sig");
            h.write("a.json.bob.sig", &signature);
        }),
        ("2 people have to sign: 1 of them", |h| {
            let more = h.allow("alice,bob", "alice", "");
            h.write("allowed", &more);
            h.approve("a.json", &[], &["alice"]);
        }),
        ("`*@corp` is a pattern", |h| {
            let more = h.read("allowed") + &h.allow("*@corp", "mallory", "");
            h.write("allowed", &more);
            h.approve_raw();
        }),
        ("the key has expired", |h| {
            let list = h.allow("alice", "alice", "") + &h.allow("bob", "bob", "valid-before=\"20200101Z\"");
            h.write("allowed", &list);
            h.approve("a.json", &[], &["alice", "bob"]);
        }),
        ("the key is not yet valid", |h| {
            let list = h.allow("alice", "alice", "") + &h.allow("bob", "bob", "valid-after=\"29990101Z\"");
            h.write("allowed", &list);
            h.approve("a.json", &[], &["alice", "bob"]);
        }),
        ("the key is revoked", |h| {
            let revoked = h.path("bob.pub");
            h.policy(&[&format!("revoked_keys = {revoked:?}")]);
            h.approve("a.json", &[], &["alice", "bob"]);
        }),
        ("alice asked for it and cannot approve it", |h| {
            h.approve("a.json", &["--requester", "alice"], &["alice", "bob"]);
        }),
        ("bob is running this and cannot approve it", |h| {
            let user = String::from_utf8(super::support::run::<&str>("id", &["-un"])).unwrap();
            h.policy(&[&format!("[principals]\n{} = \"bob\"", user.trim())]);
            h.approve("a.json", &[], &["alice", "bob"]);
        }),
        ("it expired at", |h| {
            h.approve(
                "a.json",
                &["--not-before", "2020-01-01", "--expires", "2020-01-02"],
                &["alice", "bob"],
            );
        }),
        ("it does not hold before", |h| {
            h.approve("a.json", &["--not-before", "1h", "--expires", "2h"], &["alice", "bob"]);
        }),
        ("the policy's max_age is 30m", |h| {
            h.policy(&["max_age = \"30m\""]);
            h.approve("a.json", &[], &["alice", "bob"]);
        }),
        ("it is for instance 00000000-0000-0000-0000-000000000000", |h| {
            let other = "00000000-0000-0000-0000-000000000000";
            h.approve("a.json", &["--instance", other], &["alice", "bob"]);
        }),
        ("it does not cover the disk `disk`", |h| {
            h.approve("a.json", &["--disk", "disk.eph0"], &["alice", "bob"]);
        }),
        ("does not cover `list`, only suspend", |h| {
            h.approve("a.json", &["--verb", "suspend"], &["alice", "bob"]);
        }),
        ("the approval is for a source with the digest", |h| {
            h.approve("a.json", &["--source-digest", &"0".repeat(64)], &["alice", "bob"]);
        }),
        ("unknown field `extra`", |h| {
            h.approve("a.json", &[], &["alice", "bob"]);
            let text = h.read("a.json").replacen('{', "{\"extra\": 1,", 1);
            h.write("a.json", &text);
        }),
        ("not an approval", |h| h.write("a.json", "{}")),
        ("the policy wants every act to belong to a case", |h| {
            h.policy(&["require_case = true"]);
            h.approve("a.json", &[], &["alice", "bob"]);
        }),
    ];
    for (message, attempt) in attempts {
        let mut house = House::signed(2);
        attempt(&mut house);
        house.refuses(message, &LS);
    }
    // The same steps without the fault are let through.
    let house = House::signed(2);
    let digest = super::support::run("sha256sum", &[house.path("instances").join(INSTANCE).join("disk")]);
    let digest = String::from_utf8(digest).unwrap()[..64].to_string();
    house.approve("a.json", &["--source-digest", &digest], &["alice", "bob"]);
    assert!(house.exits(0, &LS).contains("hostname"));
    // A file anywhere, proved by its digest alone.
    std::fs::copy(house.path("instances").join(INSTANCE).join("disk"), house.path("copy.raw")).unwrap();
    let args = ["ls", "copy.raw", "/etc", "--format", "raw", "--approval", "a.json"];
    assert!(house.exits(0, &args).contains("hostname"));
}

impl House {
    /// A signed approval for which coldread itself is not asked.
    fn approve_raw(&self) {
        let text = format!(
            r#"{{"type":"coldread approval","version":1,"instance":"{INSTANCE}","disks":["disk"],"paths":["/etc/**"],"verbs":["list"],"whole_disk":false,"not_before":"2020-01-01T00:00:00Z","expires":"2999-01-01T00:00:00Z","nonce":"n","reason":"r","ticket":"t","requester":"dave"}}"#
        );
        self.write("a.json", &text);
        self.sign("a.json", "alice");
        self.sign("a.json", "bob");
    }
}

#[test]
fn a_path_is_judged_where_it_leads() {
    if !ready() {
        return;
    }
    let house = House::signed(1);
    house.approve("a.json", &[], &["alice"]);
    house.open_case("c");
    let with = |args: &[&'static str]| [args, &["--case", "c", "--approval", "a.json"]].concat();
    for path in [
        "/home",
        "/",
        "/etcetera",
        "/etc/out/",
        "/etc/up/alice",
        "/etc/../home",
        "/etc/ssh/../../home/alice",
        "/home/alice/secret",
        "//home",
    ] {
        house.refuses("the approval does not cover this path", &with(&["ls", INSTANCE, path]));
    }
    // A link from outside that leads in is covered; a hard link is judged by the name that was asked for.
    assert!(house.exits(0, &with(&["ls", INSTANCE, "/home/in/"])).contains("hostname"));
    house.exits(0, &with(&["extract", INSTANCE, "/etc/hard", "--to", "hard"]));
    assert_eq!(house.read("hard/files/etc/hard"), SECRET);
    let manifest = house.read("hard/manifest.jsonl");
    assert!(manifest.contains("\"nlink\":2"), "{manifest}");
    // One is copied, the other refused, and the log has both.
    let said = house.exits(3, &with(&["extract", INSTANCE, "/etc", "/home", "--to", "out"]));
    assert!(said.contains("/home"), "{said}");
    assert_eq!(house.read("out/files/etc/hostname"), "host");
    assert!(!house.path("out/files/home").exists());
    let log = house.read("c/audit.jsonl");
    let outcome: serde_json::Value = serde_json::from_str(log.lines().last().unwrap()).unwrap();
    assert_eq!((&outcome["kind"], &outcome["exit"]), (&"outcome".into(), &3.into()));
    assert_eq!(outcome["refused"][0]["path"], "/home");
    let intent: serde_json::Value = serde_json::from_str(log.lines().rev().nth(1).unwrap()).unwrap();
    assert_eq!(intent["paths"], serde_json::json!(["/etc", "/home"]));
    house.exits(0, &["case", "verify", "c"]);
}

#[test]
fn an_approval_is_used_up_when_its_case_is_closed() {
    if !ready() {
        return;
    }
    let house = House::signed(1);
    house.approve("a.json", &[], &["alice"]);
    house.open_case("c");
    house.exits(0, &[&LS[..], &["--case", "c"]].concat());
    house.exits(0, &["case", "close", "c"]);
    house.refuses("it was used by a case that is closed", &[&LS[..], &["--case", "c"]].concat());
    house.refuses("it was used by a case that is closed", &LS);
    house.open_case("d");
    house.refuses("it was used by a case that is closed", &[&LS[..], &["--case", "d"]].concat());
    // A new approval does not open a closed case either.
    house.approve("b.json", &[], &["alice"]);
    house.refuses("the case is closed", &["ls", INSTANCE, "/etc", "--approval", "b.json", "--case", "c"]);
    house.exits(3, &["case", "close", "c"]);
    for command in ["show", "verify"] {
        house.exits(0, &["case", command, "c"]);
    }
    house.exits(0, &["log", "verify", "c", "--against", "c/closed.checkpoint"]);
    // Opening it again by hand is found.
    let log = house.read("c/audit.jsonl");
    let cut = log.trim_end().rfind('\n').unwrap() + 1;
    house.write("c/audit.jsonl", &log[..cut]);
    assert!(house.exits(1, &["case", "verify", "c"]).contains("its end was cut"));
}

#[test]
fn an_emergency_is_marked_and_waits_for_signatures() {
    if !ready() {
        return;
    }
    let mut house = House::signed(2);
    house.open_case("c");
    let act = ["extract", INSTANCE, "/etc", "--case", "c", "--break-glass", "the house burns"];
    house.refuses("the policy allows no --break-glass", &act);
    house.policy(&["break_glass = true"]);
    house.exits(0, &act);
    assert!(house.read("c/evidence/0001-extract/manifest.jsonl").contains("break-glass"));
    assert!(house.exits(1, &["case", "verify", "c"]).contains("is not ratified: the house burns"));
    house.exits(0, &["case", "report", "c"]);
    assert!(house.read("c/report.html").contains("emergency, not ratified"));
    // Neither a signature short, nor for something else.
    house.approve("a.json", &[], &["alice"]);
    house.refuses("2 people have to sign", &["approval", "ratify", "a.json", "--case", "c"]);
    house.approve("b.json", &["--path", "/var/**"], &["alice", "bob"]);
    house.refuses("it does not cover /etc", &["approval", "ratify", "b.json", "--case", "c"]);
    house.sign("a.json", "bob");
    house.exits(0, &["approval", "ratify", "a.json", "--case", "c"]);
    house.exits(0, &["case", "verify", "c"]);
    house.exits(2, &["approval", "ratify", "a.json", "--case", "c"]);
}

#[test]
fn a_case_that_was_touched_does_not_verify() {
    if !ready() {
        return;
    }
    type Touch = fn(&House);
    let touches: &[(&str, Touch)] = &[
        ("a file of the manifest has the digest", |h| {
            h.write("c/evidence/0001-extract/files/etc/hostname", "guest");
        }),
        ("a file of the manifest: No such file", |h| {
            std::fs::remove_file(h.path("c/evidence/0001-extract/files/etc/hostname")).unwrap();
        }),
        ("the manifest of run", |h| h.write("c/evidence/0001-extract/manifest.jsonl", "")),
        ("no outcome in the log speaks of it", |h| {
            std::fs::create_dir(h.path("c/evidence/0009-extract")).unwrap();
        }),
        ("case.toml is not what the first line of the log says", |h| {
            h.write("c/case.toml", &h.read("c/case.toml").replace("why", "because"));
        }),
        ("is not in the case", |h| {
            std::fs::remove_dir_all(h.path("c/approvals")).unwrap();
        }),
        ("the signature of alice does not stand", |h| {
            for entry in std::fs::read_dir(h.path("c/approvals")).unwrap() {
                let path = entry.unwrap().path();
                if path.extension().is_some_and(|e| e == "sig") {
                    std::fs::remove_file(path).unwrap();
                }
            }
        }),
    ];
    for (message, touch) in touches {
        let house = House::signed(1);
        house.approve("a.json", &[], &["alice"]);
        house.open_case("c");
        house.exits(0, &["extract", INSTANCE, "/etc", "--case", "c", "--approval", "a.json"]);
        house.exits(0, &["case", "verify", "c"]);
        touch(&house);
        let said = house.exits(1, &["case", "verify", "c"]);
        assert!(said.contains(message), "wanted `{message}` in\n{said}");
    }
}

#[test]
fn a_policy_that_cannot_be_kept_is_never_the_default() {
    if !ready() {
        return;
    }
    let house = House::signed(1);
    let good = house.read("policy.toml");
    let stated = ["ls", INSTANCE, "/etc", "--ticket", "T", "--approved-by", "x", "--reason", "y"];
    let broken: &[(&str, String)] = &[
        ("unknown field `requires`", good.replace("require =", "requires =")),
        ("unknown variant `nothing`", good.replace("\"signed\"", "\"nothing\"")),
        ("at least 1", good.replace("approvers = 1", "approvers = 0")),
        ("allowed_signers", good.replace("/allowed", "/missing")),
        (
            "needs `log.syslog = true` or `log.checkpoint_to`",
            good.split("checkpoint_to").next().unwrap().into(),
        ),
        ("needs `allowed_signers`", "require = \"signed\"\n[log]\nsyslog = true".into()),
        ("needs `require = \"signed\"`", "approvers = 2".into()),
        ("is not an absolute path", "allowed_signers = \"allowed\"".into()),
        ("not a length of time", "max_pause = \"soon\"".into()),
        ("policy", "require = ".into()),
    ];
    for (message, text) in broken {
        house.write("policy.toml", text);
        house.refuses(message, &stated);
    }
    std::fs::remove_file(house.path("policy.toml")).unwrap();
    house.refuses("No such file", &stated);
    house.write("policy.toml", &good);
    house.refuses("the policy asks for a signed one", &stated);
}
