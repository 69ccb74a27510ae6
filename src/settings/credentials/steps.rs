//! `steps`: the calls that follow the token request.

use toml::Spanned;

use super::CredentialReview;
use crate::config::StepTable;
use crate::oauth::{MemberPath, Step};
use crate::template::{DeferredName, Names, Template};

impl CredentialReview<'_, '_> {
    /// Returns the steps, and the members of the token answer that any text names. `raw` are those that the injected
    /// texts name.
    pub(super) fn steps(&mut self, names: &Names, raw: Vec<String>) -> (Vec<Step>, Vec<String>) {
        let names = names.with(DeferredName::AccessToken).with_raw();
        let given = self.section.steps.items();
        let mut steps: Vec<Step> =
            given.iter().filter_map(|step| self.step(step, &names)).collect();
        // A member of an answer is kept if a later text names it.
        let mut later = raw;
        for step in steps.iter_mut().rev() {
            step.raw = later.iter().filter_map(|text| MemberPath::parse(text)).collect();
            later.extend(templates(step).flat_map(Template::raw).map(str::to_owned));
            later.sort_unstable();
            later.dedup();
        }
        (steps, later)
    }

    fn step(&mut self, given: &Spanned<StepTable>, names: &Names) -> Option<Step> {
        let step = given.get_ref();
        if step.url.is_absent() {
            self.error("steps.url", "is missing", given.span(), "write url = \"https://…\"");
        }
        let url = self.url("steps.url", &step.url, names);
        let params = self.parameters("steps.params", &step.params, names);
        let headers = self.fields("steps.headers", &step.headers, names).unwrap_or_default();
        let response = step.response.get();
        Some(Step {
            url: url?,
            encoding: *step.encoding,
            params,
            headers,
            access_token: response.and_then(|it| it.access_token.get().cloned()),
            expires_in: response.and_then(|it| it.expires_in.get().cloned()),
            raw: Vec::new(),
        })
    }
}

fn templates(step: &Step) -> impl Iterator<Item = &Template> {
    let in_parameters = step.params.iter().flat_map(|parameter| &parameter.values);
    in_parameters.chain(step.headers.iter().map(|(_, template)| template)).chain([&step.url])
}
