//! A voipctl context, YAML. Names and addresses were checked: none needs escaping inside quotes.

use voipfleet_ruleset::identifiers::OperatorName;

use crate::pki::authority::Pair;
use crate::settings::Address;

pub(super) fn context_file(
    address: &Address,
    operator: &OperatorName,
    ca_pem: &str,
    pair: &Pair,
) -> String {
    let block = |pem: &str| {
        pem.lines().fold(String::new(), |mut block, line| {
            block.extend(["  ", line.trim_end(), "\n"]);
            block
        })
    };
    format!(
        "controller: \"{address}\"\noperator: \"{operator}\"\nca: |\n{}certificate: |\n{}key: |\n{}",
        block(ca_pem),
        block(&pair.certificate_pem),
        block(&pair.key_pem),
    )
}
