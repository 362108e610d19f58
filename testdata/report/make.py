#!/usr/bin/env python3
"""Makes report.png: a case's report as a picture for the README.

    testdata/report/make.py target/debug/coldread

The case is invented; its log is chained here as RFC 6962 has it, with a fixed clock. Needs chromium."""
import hashlib, json, os, subprocess, sys, tempfile

TOOL = os.path.abspath(sys.argv[1])
HERE = os.path.dirname(os.path.abspath(__file__))
INSTANCE = "6f3c1f0e-2b7d-4a54-9d3c-0f5e7a1b0981"
KEYS = {"alice@corp": "SHA256:lzwyfME5RR43nDDPQlQEyFP6/oi3a24BvosMO1Klb58",
        "bob@corp": "SHA256:LoaisGIZ8fwot/kUcrdpcASAxJFDqm7w3skhQ0QxH3o"}


def sha(data):
    return hashlib.sha256(data).digest()


def root(leaves):
    if len(leaves) < 2:
        return leaves[0] if leaves else sha(b"")
    k = 1
    while k * 2 < len(leaves):
        k *= 2
    return sha(b"\x01" + root(leaves[:k]) + root(leaves[k:]))


lines = []


def line(time, kind, run="", **body):
    seq = len(lines)
    tree = {"size": seq, "root": root([sha(b"\x00" + l) for l in lines]).hex()}
    head = {"seq": seq, "time": f"2026-03-04T{time}Z", "kind": kind, "run": run, "salt": sha(b"%d" % seq).hex()[:32], "tree": tree}
    lines.append(json.dumps(head | body, ensure_ascii=False).encode())


def grant():
    signers = [{"principal": who, "key_type": "ssh-ed25519", "fingerprint": key, "signature": ""} for who, key in KEYS.items()]
    return {"kind": "signed", "document": sha(b"document").hex(), "nonce": "n", "ticket": "SEC-482", "requester": "dana@corp",
            "reason": "suspected intrusion on web-1", "signers": signers, "expires": "2026-03-05T09:00:00Z"}


def intent(time, run, command, paths, leave=None):
    argv = ["coldread", command, "domain:web-1", *paths, "--case", "SEC-482"]
    line(time, "intent", run, command=command, verbs=[command], argv=argv, paths=paths, source="domain:web-1", instance=INSTANCE,
         operator={"uid": 0, "user": "root", "login_uid": 1004, "login": "erin", "sudo_user": "erin"},
         tool={"version": "0.1.0", "host": "hv-17"}, grant=leave or grant(), consistency="point-in-time view")


def pause(start, end):
    return {"from": f"2026-03-04T{start}Z", "until": f"2026-03-04T{end}Z", "ended_by": "resumed"}


with tempfile.TemporaryDirectory() as case:
    os.makedirs(f"{case}/evidence/0001-extract")
    os.makedirs(f"{case}/approvals")
    facts = {"id": "SEC-482", "ticket": "SEC-482", "reason": "suspected intrusion on web-1", "investigator": "erin@corp",
             "opened": "2026-03-04T09:02:11.5Z"}
    with open(f"{case}/case.toml", "w") as out:
        out.writelines(f"{key} = {json.dumps(value)}\n" for key, value in facts.items())
    names = ["/etc/passwd", "/etc/ssh/sshd_config", "/var/log/auth.log", "/var/www/html/<script>alert(1)</script>.php",
             "/var/www/html/invoice\u202egpj.exe"]
    with open(f"{case}/evidence/0001-extract/manifest.jsonl", "w") as out:
        for name in names:
            digest = sha(name.encode()).hex()
            out.write(json.dumps({"path": name, "size": 811 * len(name), "nlink": 1, "sha256": digest, "output_sha256": digest, "gaps": []}) + "\n")
    with open(f"{case}/evidence/0001-extract/manifest.jsonl", "rb") as manifest:
        digest = sha(manifest.read()).hex()
    line("09:02:11.5", "opened", case=facts, origin="coldread/SEC-482/5d1f0c7a9be24403")
    intent("09:05:40.1", "r1", "ls", ["/var/www"])
    line("09:05:58.4", "outcome", "r1", intent=1, exit=0, results={"entries": 214}, pauses=[pause("09:05:40.4", "09:05:40.9")])
    intent("09:11:02.0", "r2", "extract", ["/etc", "/var/log", "/var/www", "/home"])
    line("09:14:31.7", "outcome", "r2", intent=3, exit=3, results={"files": 5, "bytes": 148_230}, evidence="evidence/0001-extract",
         manifest={"path": "evidence/0001-extract/manifest.jsonl", "sha256": digest},
         refused=[{"path": "/home", "why": "outside the approval"}], pauses=[pause("09:11:02.3", "09:11:02.8")],
         changed=["the instance was paused for 0.5 s: a view of a running disk needs what QEMU holds back"])
    line("09:16:45.0", "refused", "r3", command="image", why="`image` reads the disk as a whole, and it does not cover that", source="domain:web-1")
    intent("09:20:12.0", "r4", "recover", ["/var/www"], {"kind": "break-glass", "reason": "the attacker is deleting files"})
    line("09:23:50.9", "outcome", "r4", intent=6, exit=0, results={"files": 3}, pauses=[pause("09:20:12.2", "09:20:12.7")])
    line("09:31:07.3", "ratified", "r5", ratifies="r4", intent=6, grant=grant())
    with open(f"{case}/audit.jsonl", "wb") as out:
        out.writelines(l + b"\n" for l in lines)
    subprocess.run([TOOL, "case", "report", case, "--to", f"{case}/report.html"], check=True)
    flags = "--headless --no-sandbox --disable-gpu --disable-quic --no-first-run --disable-background-networking --disable-component-update --disable-sync --hide-scrollbars --window-size=1100,1000"
    subprocess.run(["chromium", *flags.split(), f"--user-data-dir={case}/profile", f"--screenshot={HERE}/report.png",
                    f"file://{case}/report.html"], check=True, stderr=subprocess.DEVNULL)
