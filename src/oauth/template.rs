//! The one template syntax of dialects and routes: `{name}` stands for a value, `{{` for a brace.

use std::borrow::Cow;

use zeroize::Zeroizing;

/// A parsed template.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Template(Vec<Part>);

#[derive(Clone, Debug, PartialEq, Eq)]
enum Part {
    Text(String),
    Name(String),
}

/// What is wrong with a template, for a person.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TemplateError {
    #[error("a `{{` is never closed")]
    Unclosed,
    #[error("there is no `{{{name}}}` here")]
    Unknown { name: String },
}

impl Template {
    /// Parses `text`, in which only the names of `known` may stand; `headers.*` there is every name that begins so.
    pub fn parse(text: &str, known: &[&str]) -> Result<Self, TemplateError> {
        let mut parts = Vec::new();
        let mut literal = String::new();
        let mut rest = text;
        while let Some(open) = rest.find('{') {
            literal.push_str(&rest[..open]);
            rest = &rest[open + 1..];
            if let Some(after) = rest.strip_prefix('{') {
                literal.push('{');
                rest = after;
                continue;
            }
            let Some(close) = rest.find('}') else { return Err(TemplateError::Unclosed) };
            let name = &rest[..close];
            if !known.iter().any(|known| fits(known, name)) {
                return Err(TemplateError::Unknown { name: name.to_owned() });
            }
            if !literal.is_empty() {
                parts.push(Part::Text(std::mem::take(&mut literal)));
            }
            parts.push(Part::Name(name.to_owned()));
            rest = &rest[close + 1..];
        }
        literal.push_str(rest);
        if !literal.is_empty() {
            parts.push(Part::Text(literal));
        }
        Ok(Self(parts))
    }

    /// The name, if the template is nothing else.
    pub fn alone(&self) -> Option<&str> {
        match self.0.as_slice() {
            [Part::Name(name)] => Some(name),
            _ => None,
        }
    }

    /// The names in it, in their order.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.0.iter().filter_map(|part| if let Part::Name(name) = part { Some(name.as_str()) } else { None })
    }

    pub fn uses(&self, name: &str) -> bool {
        self.names().any(|n| n == name)
    }

    /// The text with every name replaced by what `value` gives for it; `None` as soon as one has no value.
    pub fn render<'v>(&self, value: impl Fn(&str) -> Option<Cow<'v, str>>) -> Option<Zeroizing<String>> {
        let mut out = Zeroizing::new(String::new());
        for part in &self.0 {
            match part {
                Part::Text(text) => out.push_str(text),
                Part::Name(name) => out.push_str(&value(name)?),
            }
        }
        Some(out)
    }
}

fn fits(known: &str, name: &str) -> bool {
    match known.strip_suffix('*') {
        Some(start) => name.len() > start.len() && name.starts_with(start),
        None => known == name,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rendered(text: &str) -> Option<String> {
        let template = Template::parse(text, &["id", "secret"]).unwrap();
        template.render(|name| (name == "id").then_some(Cow::Borrowed("me"))).map(|text| text.to_string())
    }

    #[test]
    fn names_are_replaced_and_double_braces_are_one() {
        assert_eq!(rendered("a/{id}/b").as_deref(), Some("a/me/b"));
        assert_eq!(rendered(r#"{{"id":"{id}"}"#).as_deref(), Some(r#"{"id":"me"}"#));
        assert_eq!(rendered("").as_deref(), Some(""));
    }

    #[test]
    fn a_name_without_a_value_leaves_nothing() {
        assert_eq!(rendered("{id}{secret}"), None);
    }

    #[test]
    fn unknown_and_unclosed_names_are_refused() {
        assert_eq!(Template::parse("{nope}", &["id"]), Err(TemplateError::Unknown { name: "nope".into() }));
        assert_eq!(Template::parse("x{id", &["id"]), Err(TemplateError::Unclosed));
        assert!(Template::parse("{headers.X-Key}", &["headers.*"]).is_ok());
        assert!(Template::parse("{headers.}", &["headers.*"]).is_err());
    }
}
