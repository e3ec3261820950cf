//! `voipfleet-controller init`: a CA, the server's certificate and the first admin.

use std::fs;
use std::path::PathBuf;

use voipfleet_protocol::identity::{Identity, TrustDomain, tls};
use voipfleet_ruleset::identifiers::OperatorName;

use super::context_file::context_file;
use super::new_admin::NewAdmin;
use super::staging_dir::{StagingDir, StagingError, io_error};
use crate::pki::authority::{NewAuthority, PkiError, leaf};
use crate::settings::{Address, Files, SETTINGS_VERSION, Settings, write_new};

const SECRET: u32 = 0o600;
const PUBLIC: u32 = 0o644;

/// The options of `init`.
#[derive(Debug, Clone)]
pub struct Plan {
    /// The data directory: absent or empty.
    pub data: PathBuf,
    /// Where agents and operators connect.
    pub address: Address,
    /// Where machines enrol.
    pub enrol_address: Address,
    /// In every certificate.
    pub trust_domain: TrustDomain,
    /// The first operator.
    pub admin: OperatorName,
    /// Where the first operator's context file goes; none: `admin.yaml` in the data directory.
    pub context: Option<PathBuf>,
}

/// Why nothing was made.
#[derive(Debug, thiserror::Error)]
pub enum InitError {
    #[error(transparent)]
    Staging(#[from] StagingError),
    #[error("{path} already exists; choose another file with --context")]
    ContextExists { path: String },
    #[error(transparent)]
    Pki(#[from] PkiError),
}

/// A new installation.
#[derive(Debug)]
pub struct Made {
    /// The files.
    pub files: Files,
    /// The first operator's context file.
    pub context: PathBuf,
}

/// Makes an installation.
pub fn init(plan: &Plan, now_ms: u64) -> Result<Made, InitError> {
    if let Some(path) = plan.context.as_ref().filter(|path| path.exists()) {
        let path = path.display().to_string();
        return Err(InitError::ContextExists { path });
    }
    let staging = StagingDir::create(&plan.data, "init")?;
    let context_text = fill(&staging.files(), plan, now_ms)?;
    let Some(context) = &plan.context else {
        let inside = staging.files().admin_context();
        write_new(&inside, SECRET, &context_text).map_err(io_error(&inside))?;
        let files = staging.publish()?;
        let context = files.admin_context();
        return Ok(Made { files, context });
    };
    // Before the rename, so that its failure leaves nothing behind.
    if let Some(folder) = context.parent().filter(|p| !p.as_os_str().is_empty()) {
        fs::create_dir_all(folder).map_err(io_error(folder))?;
    }
    write_new(context, SECRET, &context_text).map_err(io_error(context))?;
    let files = staging.publish().inspect_err(|_| {
        // Made above; of no use without the installation.
        let _ = fs::remove_file(context);
    })?;
    Ok(Made {
        files,
        context: context.clone(),
    })
}

/// Makes every file but the admin's context, whose text it returns.
fn fill(files: &Files, plan: &Plan, now_ms: u64) -> Result<String, InitError> {
    let ca = NewAuthority::generate(plan.trust_domain.clone(), now_ms)?;
    let mut hosts = vec![plan.address.host()];
    if plan.enrol_address.host() != plan.address.host() {
        hosts.push(plan.enrol_address.host());
    }
    let server = ca.server(&hosts, now_ms)?;
    let admin = ca.client(&Identity::Operator(plan.admin.clone()), now_ms)?;
    let settings = Settings {
        version: SETTINGS_VERSION,
        trust_domain: plan.trust_domain.to_string(),
        address: plan.address.clone(),
        enrol_address: plan.enrol_address.clone(),
        admin: plan.admin.clone(),
    };
    let settings = serde_json::to_string_pretty(&settings)
        .map_err(|error| io_error(&files.settings())(error.into()))?;
    let certificates = tls::certificates(&admin.certificate_pem, "certificate");
    let leaf = certificates
        .map_err(PkiError::from)?
        .first()
        .and_then(|first| leaf(first));
    let leaf =
        leaf.ok_or_else(|| PkiError::Request("its certificate cannot be read".to_owned()))?;
    let new_admin = NewAdmin::of_init(&plan.admin, &leaf, now_ms).text();
    let new_admin = new_admin.map_err(|error| io_error(&files.new_admin())(error.into()))?;
    for (path, mode, text) in [
        (files.new_admin(), SECRET, &new_admin),
        (files.ca_key(), SECRET, &ca.key_pem),
        (files.ca_certificate(), PUBLIC, &ca.certificate_pem),
        (files.server_key(), SECRET, &server.key_pem),
        (files.server_certificate(), PUBLIC, &server.certificate_pem),
        (files.settings(), PUBLIC, &format!("{settings}\n")),
    ] {
        write_new(&path, mode, text).map_err(io_error(&path))?;
    }
    Ok(context_file(
        &plan.address,
        &plan.admin,
        &ca.certificate_pem,
        &admin,
    ))
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;
    use std::path::Path;

    use super::*;
    use crate::settings::SettingsError;

    fn plan(data: &Path) -> Plan {
        let address: Address = "127.0.0.1:7443".parse().unwrap();
        Plan {
            data: data.to_owned(),
            enrol_address: address.with_port(7444),
            address,
            trust_domain: "voipfleet".parse().unwrap(),
            admin: "ada".parse().unwrap(),
            context: None,
        }
    }

    const NOW: u64 = 1_790_000_000_000;

    #[test]
    fn secrets_are_private_and_nothing_is_overwritten() {
        let dir = tempfile::tempdir().unwrap();
        let plan = plan(&dir.path().join("deep/data"));
        let made = init(&plan, NOW).unwrap();
        for path in [
            made.files.ca_key(),
            made.files.server_key(),
            made.context.clone(),
        ] {
            let bits = fs::metadata(&path).unwrap().permissions().mode() & 0o777;
            assert_eq!(bits, 0o600, "{}", path.display());
        }
        Settings::load(&made.files).unwrap();
        let before = fs::read(made.files.ca_key()).unwrap();
        assert!(matches!(init(&plan, NOW), Err(InitError::Staging(_))));
        assert_eq!(fs::read(made.files.ca_key()).unwrap(), before);
        let siblings = fs::read_dir(dir.path().join("deep")).unwrap().count();
        assert_eq!(siblings, 1, "nothing half-made is left");
    }

    #[test]
    fn a_failed_init_leaves_nothing_behind() {
        let dir = tempfile::tempdir().unwrap();
        let data = dir.path().join("data");
        let mut plan = plan(&data);
        // A file where the context's folder should be.
        fs::write(dir.path().join("file"), "").unwrap();
        plan.context = Some(dir.path().join("file/admin.yaml"));
        assert!(init(&plan, NOW).is_err());
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1);
    }

    #[test]
    fn init_accepts_an_empty_directory() {
        let dir = tempfile::tempdir().unwrap();
        init(&plan(dir.path()), NOW).unwrap();
    }

    #[test]
    fn refuses_keys_readable_by_others() {
        let dir = tempfile::tempdir().unwrap();
        let made = init(&plan(&dir.path().join("data")), NOW).unwrap();
        let open = fs::Permissions::from_mode(0o640);
        fs::set_permissions(made.files.ca_key(), open).unwrap();
        let error = Settings::load(&made.files).unwrap_err();
        assert!(matches!(error, SettingsError::Open { .. }));
        assert!(error.to_string().contains("chmod 600"), "{error}");
        fs::remove_file(made.files.ca_key()).unwrap();
        let error = Settings::load(&made.files).unwrap_err().to_string();
        assert!(error.contains("ca/ca.key is missing"), "{error}");
    }
}
