//! By whose leave: judges what is stated or signed, and mints the permits. Nowhere else are permits made.

pub mod document;
pub mod glob;
mod scope;
pub(in crate::case) mod signature;
pub(in crate::case) mod signers;

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use serde::Serialize;

pub use document::{Document, Signed};
pub use scope::Rules;
pub use signature::{NAMESPACE, Signer};

use super::operator::Operator;
use super::policy::Policy;
use super::record::IntentOnDisk;
use super::span;
use super::{Leave, Request};
use crate::error::{Error, Result};
use crate::permit::{Act, Permit, Scope, Verb};
use signature::{Judge, Standing};

/// What an act rests on, as the log and the manifests say it.
#[derive(Clone, Debug, Serialize)]
#[serde(tag = "kind", rename_all = "kebab-case")]
pub enum Grant {
    /// Somebody is said to have approved.
    Stated {
        /// Where the work is tracked.
        ticket: String,
        /// Who is said to have approved.
        approved_by: String,
        /// Why.
        reason: String,
    },
    /// People have signed.
    Signed {
        /// The document's SHA-256, lower-case hex.
        document: String,
        /// The document's nonce.
        nonce: String,
        /// Where the work is tracked.
        ticket: String,
        /// Why.
        reason: String,
        /// Who asked for it.
        requester: String,
        /// Who signed, each under a key of their own.
        signers: Vec<Signer>,
        /// From when it holds no more.
        expires: Timestamp,
    },
    /// Nobody has approved: an emergency, to be ratified.
    BreakGlass {
        /// Why.
        reason: String,
    },
}

/// A grant and what it covers.
pub(super) struct Granted {
    pub(super) grant: Grant,
    /// `None`: every verb.
    verbs: Option<Vec<Verb>>,
    scope: Arc<Rules>,
    pub(super) max_pause: Option<Duration>,
    /// What the source's top image has to hash to before anything of it is shown.
    pub(super) source_digest: Option<String>,
    /// The file it was read from.
    pub(super) file: Option<PathBuf>,
}

impl Granted {
    /// A permit for `A`.
    ///
    /// # Errors
    /// Refused: the grant does not cover that act.
    pub(super) fn permit<A: Act>(&self, _written: &IntentOnDisk) -> Result<Permit<A>> {
        if let Some(verbs) = &self.verbs
            && !verbs.contains(&A::VERB)
        {
            return Err(verb_refused(A::VERB, verbs));
        }
        Ok(Permit::mint(self.scope.clone()))
    }

    /// Whether acts without a path are covered.
    pub(super) fn covers_whole_disk(&self) -> bool {
        self.scope.whole_disk()
    }

    fn everything(grant: Grant) -> Self {
        Self {
            grant,
            verbs: None,
            scope: Arc::new(Rules::Everything),
            max_pause: None,
            source_digest: None,
            file: None,
        }
    }
}

/// Everything a judgement looks at.
pub(super) struct Question<'a> {
    pub(super) request: &'a Request,
    pub(super) leave: &'a Leave,
    pub(super) policy: &'a Policy,
    pub(super) operator: &'a Operator,
    /// What the case's own file says.
    pub(super) case: Option<&'a super::directory::Facts>,
    /// The approvals kept in the case.
    pub(super) kept: Vec<PathBuf>,
    /// Whether an approval's nonce was used up by a case that is closed.
    pub(super) consumed: &'a dyn Fn(&str) -> Option<String>,
    pub(super) now: Timestamp,
}

/// Judges.
///
/// # Errors
/// Refused: each reason has its own message.
pub(super) fn judge(question: &Question<'_>) -> Result<Granted> {
    let (leave, policy) = (question.leave, question.policy);
    if let Some(reason) = &leave.break_glass {
        return break_glass(reason, policy);
    }
    if let Some(file) = &leave.approval {
        return judge_file(question, file);
    }
    if policy.require == super::policy::Require::Signed || !question.kept.is_empty() {
        return judge_kept(question);
    }
    stated(question)
}

fn break_glass(reason: &str, policy: &Policy) -> Result<Granted> {
    if !policy.break_glass {
        return Err(Error::refused("the policy allows no --break-glass")
            .hint("break_glass = true in the policy would; without it there is no way past an approval"));
    }
    if reason.trim().is_empty() {
        return Err(Error::refused("--break-glass wants a reason"));
    }
    Ok(Granted::everything(Grant::BreakGlass { reason: reason.into() }))
}

/// Ticket, approver and reason, from the options or the case.
fn stated(question: &Question<'_>) -> Result<Granted> {
    let (leave, case) = (question.leave, question.case);
    let given = |option: &Option<String>, kept: Option<&String>| {
        option.clone().or_else(|| kept.cloned()).filter(|text| !text.trim().is_empty())
    };
    let ticket = given(&leave.ticket, case.map(|case| &case.ticket));
    let approved_by = given(&leave.approved_by, case.and_then(|case| case.approved_by.as_ref()));
    let reason = given(&leave.reason, case.map(|case| &case.reason));
    if let (Some(ticket), Some(approved_by), Some(reason)) = (&ticket, &approved_by, &reason) {
        return Ok(Granted::everything(Grant::Stated {
            ticket: ticket.clone(),
            approved_by: approved_by.clone(),
            reason: reason.clone(),
        }));
    }
    let options = [
        ("--ticket", ticket, "CHG-1234"),
        ("--approved-by", approved_by, "WHO"),
        ("--reason", reason, "'WHY'"),
    ];
    let mut command: Vec<String> =
        question.request.argv.iter().map(|arg| quoted(&arg.to_string_lossy())).collect();
    let mut missing = Vec::new();
    for (option, _, example) in options.iter().filter(|(_, value, _)| value.is_none()) {
        missing.push(*option);
        command.push(format!("{option} {example}"));
    }
    Err(Error::refused(format!("no approval: {} missing", missing.join(", "))).hint(format!(
        "customers' content needs somebody's leave, which is recorded:\n    {}",
        command.join(" ")
    )))
}

/// One of the approvals that lie in the case.
fn judge_kept(question: &Question<'_>) -> Result<Granted> {
    let mut reasons = Vec::new();
    for file in &question.kept {
        match judge_file(question, file) {
            Ok(granted) => return Ok(granted),
            Err(e) if question.kept.len() == 1 => return Err(e),
            Err(e) => reasons.push(e.what().to_string()),
        }
    }
    if reasons.is_empty() {
        return Err(Error::refused("no approval: the policy asks for a signed one").hint(format!(
            "write one with `coldread approval request`, have {} sign it (ssh-keygen -Y sign -n {NAMESPACE} -f KEY FILE), \
             and give it with --approval FILE",
            people(question.policy.approvers)
        )));
    }
    Err(Error::refused(format!("none of the case's approvals covers this: {}", reasons.join("; "))))
}

fn judge_file(question: &Question<'_>, file: &Path) -> Result<Granted> {
    let signed = Document::load(file)?;
    let named = |error: Error| error.context(format!("approval {}", file.display()));
    covers(question, &signed.document).map_err(named)?;
    if let Some(used) = (question.consumed)(&signed.document.nonce) {
        return Err(named(
            Error::refused(format!("it was used by a case that is closed ({used})"))
                .hint("a closed case uses its approvals up; ask for a new one"),
        ));
    }
    let signers = signers(question, &signed, file).map_err(named)?;
    let grant = signed.grant(signers);
    let document = signed.document;
    Ok(Granted {
        scope: Arc::new(Rules::of(&document).map_err(Error::refused)?),
        verbs: Some(document.verbs.iter().filter_map(|verb| Verb::from_word(verb)).collect()),
        max_pause: document.max_pause,
        source_digest: document.source_digest.clone(),
        file: Some(file.to_path_buf()),
        grant,
    })
}

impl Document {
    /// Whether it holds at `now`, as far as time goes.
    ///
    /// # Errors
    /// Refused: not yet, no more, or for longer than the policy lets one run.
    pub fn holds(&self, policy: &Policy, now: Timestamp) -> Result<()> {
        if now < self.not_before {
            return Err(Error::refused(format!("it does not hold before {}", self.not_before)));
        }
        if now >= self.expires {
            return Err(Error::refused(format!("it expired at {}", self.expires)));
        }
        let age = self.expires.duration_since(self.not_before).unsigned_abs();
        match policy.max_age {
            Some(longest) if age > longest => Err(Error::refused(format!(
                "it runs for {}, and the policy's max_age is {}",
                span::show(age),
                span::show(longest)
            ))),
            _ => Ok(()),
        }
    }
}

impl Signed {
    /// What rests on the document once these people have signed it.
    pub(in crate::case) fn grant(&self, signers: Vec<Signer>) -> Grant {
        let document = &self.document;
        Grant::Signed {
            document: self.digest.clone(),
            nonce: document.nonce.clone(),
            ticket: document.ticket.clone(),
            reason: document.reason.clone(),
            requester: document.requester.clone(),
            signers,
            expires: document.expires,
        }
    }
}

/// Whether the document is for this act, apart from its paths, which are judged one by one.
fn covers(question: &Question<'_>, document: &Document) -> Result<()> {
    let request = question.request;
    document.holds(question.policy, question.now)?;
    match &request.instance {
        Some(instance) if !instance.eq_ignore_ascii_case(&document.instance) => {
            return Err(Error::refused(format!(
                "it is for instance {}, and this is {instance}",
                document.instance
            )));
        }
        None if document.source_digest.is_none() => {
            return Err(Error::refused(format!(
                "it is for instance {}, and nothing says which instance this source is",
                document.instance
            ))
            .hint("an approval that names the source's digest (--source-digest) holds for a copied disk"));
        }
        _ => {}
    }
    let rules = Rules::of(document).map_err(Error::refused)?;
    if let Some(disk) = request.disks.iter().find(|disk| !rules.covers_disk(disk)) {
        return Err(Error::refused(format!(
            "it does not cover the disk `{disk}`, only {}",
            document.disks.join(", ")
        )));
    }
    let verbs: Vec<Verb> = document.verbs.iter().filter_map(|verb| Verb::from_word(verb)).collect();
    if let Some(verb) = request.verbs.iter().find(|verb| !verbs.contains(verb)) {
        return Err(verb_refused(*verb, &verbs));
    }
    if request.whole_disk && !document.whole_disk {
        return Err(Error::refused(format!(
            "`{}` reads the disk as a whole, and it does not cover that",
            request.command
        ))
        .hint("such an approval is asked for with `approval request --whole-disk`"));
    }
    if let (Some(asked), Some(longest)) = (request.max_pause, document.max_pause)
        && asked > longest
    {
        return Err(Error::refused(format!(
            "it allows a pause of {}, and {} is asked for",
            span::show(longest),
            span::show(asked)
        )));
    }
    Ok(())
}

fn verb_refused(verb: Verb, covered: &[Verb]) -> Error {
    let covered: Vec<_> = covered.iter().map(|verb| verb.word()).collect();
    Error::refused(format!("the approval does not cover `{}`, only {}", verb.word(), covered.join(", ")))
}

/// Who signed a document, if they suffice.
fn signers(question: &Question<'_>, signed: &Signed, file: &Path) -> Result<Vec<Signer>> {
    let runs_it = question.operator.principals(question.policy);
    let opinion = examine(question.policy, &runs_it, signed, file, question.now)?;
    opinion.enough(question.policy.approvers)
}

/// What the signatures beside a document are worth.
#[derive(Debug, Serialize)]
pub struct Opinion {
    /// Distinct people with distinct keys, none of them asking for it or running it.
    pub signers: Vec<Signer>,
    /// Signature files that do not count, and why.
    pub rejected: Vec<Rejected>,
}

/// A signature file that does not count.
#[derive(Debug, Serialize)]
pub struct Rejected {
    /// Its name.
    pub file: String,
    /// Why.
    pub why: String,
}

impl Opinion {
    /// The signers, if there are `wanted`.
    pub fn enough(self, wanted: u32) -> Result<Vec<Signer>> {
        if self.signers.len() >= wanted as usize {
            return Ok(self.signers);
        }
        let rejected: Vec<_> = self.rejected.iter().map(|r| format!("{}: {}", r.file, r.why)).collect();
        let found = match (self.signers.len(), rejected.is_empty()) {
            (0, true) => "there are no signatures".to_string(),
            (n, true) => format!("{n} of them"),
            (0, false) => rejected.join("; "),
            (n, false) => format!("{n} of them; {}", rejected.join("; ")),
        };
        Err(Error::refused(format!("{} have to sign: {found}", people(wanted))))
    }
}

fn people(number: u32) -> String {
    if number == 1 { "1 person".into() } else { format!("{number} people") }
}

/// Judges the signatures beside a document, `FILE.sig` and `FILE.<name>.sig`, as of `at`. `runs_it` are the names, in
/// lower case, of whoever does the act: they cannot approve it.
pub fn examine(
    policy: &Policy,
    runs_it: &BTreeSet<String>,
    signed: &Signed,
    file: &Path,
    at: Timestamp,
) -> Result<Opinion> {
    let judge = Judge::new(&policy.allowed_signers, &policy.revoked_keys, at)?;
    let mut standing: Vec<Standing> = Vec::new();
    let mut rejected = Vec::new();
    let requester = policy.names_of(&signed.document.requester);
    for path in signature_files(file)? {
        let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        let judged = judge.signature(&signed.bytes, &path).and_then(|mut judged| {
            let mut why = String::new();
            judged.signers.retain(|signer| {
                let who = signer.principal.to_lowercase();
                if requester.contains(&who) {
                    why = format!("{} asked for it and cannot approve it", signer.principal);
                } else if runs_it.contains(&who) {
                    why = format!("{} is running this and cannot approve it", signer.principal);
                } else {
                    return true;
                }
                false
            });
            if judged.signers.is_empty() { Err(why) } else { Ok(judged) }
        });
        match judged {
            Ok(judged) if standing.iter().any(|other| other.key == judged.key) => {
                rejected.push(Rejected { file: name, why: "the key has signed already".into() });
            }
            Ok(judged) => standing.push(judged),
            Err(why) => rejected.push(Rejected { file: name, why }),
        }
    }
    let signers = distinct(&standing);
    for one in &standing {
        if !signers.iter().any(|signer| Some(&signer.signature) == one.signers.first().map(|s| &s.signature))
        {
            let who = one.signers.first().map_or("", |signer| signer.principal.as_str());
            rejected.push(Rejected {
                file: who.into(),
                why: "the same person has signed with another key".into(),
            });
        }
    }
    Ok(Opinion { signers, rejected })
}

/// The most people that these keys can stand for, each key for one and each person once.
fn distinct(standing: &[Standing]) -> Vec<Signer> {
    /// Finds a person for key `k`, moving others to another of their people where that helps.
    fn place(
        k: usize,
        standing: &[Standing],
        taken: &mut Vec<(String, usize)>,
        tried: &mut BTreeSet<String>,
    ) -> bool {
        for signer in &standing[k].signers {
            let who = signer.principal.to_lowercase();
            if !tried.insert(who.clone()) {
                continue;
            }
            let holder = taken.iter().position(|(person, _)| *person == who);
            match holder {
                None => taken.push((who, k)),
                Some(at) if place(taken[at].1, standing, taken, tried) => taken[at] = (who, k),
                Some(_) => continue,
            }
            return true;
        }
        false
    }
    let mut taken = Vec::new();
    for k in 0..standing.len() {
        place(k, standing, &mut taken, &mut BTreeSet::new());
    }
    let mut signers: Vec<Signer> = taken
        .into_iter()
        .filter_map(|(who, k)| {
            standing[k].signers.iter().find(|s| s.principal.to_lowercase() == who).cloned()
        })
        .collect();
    signers.sort_by(|a, b| a.principal.cmp(&b.principal));
    signers
}

/// The signature files beside `file`, by name.
pub(in crate::case) fn signature_files(file: &Path) -> Result<Vec<PathBuf>> {
    let dir = file.parent().filter(|dir| !dir.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let stem = file.file_name().unwrap_or_default().to_string_lossy().into_owned() + ".";
    let list = std::fs::read_dir(dir).map_err(|e| Error::refused(format!("{}: {e}", dir.display())))?;
    let mut files: Vec<PathBuf> = list
        .filter_map(|entry| Some(entry.ok()?.path()))
        .filter(|path| {
            let name = path.file_name().unwrap_or_default().to_string_lossy();
            name.strip_prefix(&stem).is_some_and(|rest| rest.rsplit('.').next() == Some("sig"))
        })
        .collect();
    files.sort();
    Ok(files)
}

/// For a shell, if it needs that.
fn quoted(arg: &str) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || "-_./:=@,+%".contains(c);
    if !arg.is_empty() && arg.chars().all(plain) {
        arg.into()
    } else {
        format!("'{}'", arg.replace('\'', r"'\''"))
    }
}
