//! `vm.hypervisor.parameters`: the options of the VMM.

use bulkhead_vmm::config::MemoryBacking;

use super::FieldError;

/// The options, as they are chosen. Those that are not named are as without the section.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct VmmOptions {
    /// How the host provides the guest's memory.
    pub memory: MemoryBacking,
    /// Whether what the guest's kernel prints goes to the log as it comes.
    pub console: bool,
}

/// Where the value of an option is.
type Place = fn(&mut VmmOptions) -> &mut bool;

/// Every option by its name. The value of each is `on` or `off`.
const OPTIONS: [(&str, Place); 3] = [
    ("--huge-pages", |options| &mut options.memory.huge_pages),
    ("--prefault", |options| &mut options.memory.prefault),
    ("--console", |options| &mut options.console),
];

impl VmmOptions {
    /// Reads `--name=on` and `--name=off`.
    ///
    /// # Errors
    /// A parameter that is no option, has another value, or sets again what one before it has set.
    pub fn parse(parameters: &[String]) -> Result<Self, FieldError> {
        let mut options = Self::default();
        let mut seen = Vec::new();
        for (index, parameter) in parameters.iter().enumerate() {
            let refused = |problem: String| {
                let field = format!("vm.hypervisor.parameters[{index}]");
                Err(FieldError::new(field, format!("{parameter:?} {problem}")))
            };
            let (name, value) = match parameter.split_once('=') {
                Some((name, value)) => (name, Some(value)),
                None => (parameter.as_str(), None),
            };
            let Some((name, place)) = OPTIONS.iter().find(|(known, _)| *known == name) else {
                let known = OPTIONS.map(|(name, _)| format!("{name}=on|off")).join(", ");
                return refused(format!("is not an option of bulkhead-vmm; it has {known}"));
            };
            *place(&mut options) = match value {
                Some("on") => true,
                Some("off") => false,
                _ => return refused(format!("should be {name}=on or {name}=off")),
            };
            if seen.contains(name) {
                return refused("sets again what another one has set".to_owned());
            }
            seen.push(name);
        }
        Ok(options)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(parameters: &[&str]) -> Result<VmmOptions, String> {
        let parameters: Vec<_> = parameters.iter().map(ToString::to_string).collect();
        VmmOptions::parse(&parameters).map_err(|error| error.to_string())
    }

    #[test]
    fn each_option_is_set_by_its_name() {
        assert_eq!(parse(&[]), Ok(VmmOptions::default()));
        let options = parse(&["--console=on", "--huge-pages=off", "--prefault=on"]).expect("options");
        assert!(options.console && options.memory.prefault && !options.memory.huge_pages);
        let usual = ["--huge-pages=on", "--prefault=off", "--console=off"];
        assert_eq!(parse(&usual), Ok(VmmOptions::default()));
    }

    #[test]
    fn what_is_no_option_is_refused_with_those_there_are() {
        for (parameters, words) in [
            (
                &["--console=on", "--turbo"][..],
                "parameters[1]: \"--turbo\" is not an option of bulkhead-vmm; it has --huge-pages=on|off, ",
            ),
            (&[""], "parameters[0]: \"\" is not an option"),
            (&["prefault=on"], "\"prefault=on\" is not an option"),
            (
                &["--prefault"],
                "\"--prefault\" should be --prefault=on or --prefault=off",
            ),
            (&["--prefault="], "should be"),
            (&["--prefault=ON"], "should be"),
            (&["--prefault =on"], "is not an option"),
            (
                &["--prefault=on", "--prefault=on"],
                "parameters[1]: \"--prefault=on\" sets again",
            ),
        ] {
            let error = parse(parameters).expect_err(words);
            assert!(
                error.starts_with("vm.hypervisor.") && error.contains(words),
                "{error}"
            );
        }
    }
}
