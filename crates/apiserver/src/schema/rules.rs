//! CEL rules (`x-kubernetes-validations`): compiled with the CRD, evaluated for each object.

use std::collections::HashMap;
use std::sync::{Arc, OnceLock};

use cel::{Context, Env, Program};
use serde_json::Value;

use super::check::same_item;
use super::node::Node;
use super::{library, values};
use crate::field::{FieldError, Reason};

/// One compiled rule.
#[derive(Debug)]
pub(crate) struct Rule {
    source: Box<str>,
    program: Arc<Program>,
    message: Option<Box<str>>,
    message_program: Option<Arc<Program>>,
    reason: Reason,
    field_path: Option<Box<str>>,
    /// Whether it compares with `oldSelf`.
    transition: bool,
    optional_old: bool,
}

/// The environment of all rules: CEL's standard library, its extensions, and Kubernetes' own functions.
fn env() -> &'static Arc<Env> {
    static ENV: OnceLock<Arc<Env>> = OnceLock::new();
    ENV.get_or_init(|| {
        let mut env = Env::stdlib();
        library::register(&mut env).expect("every function of the library is declared once");
        Arc::new(env)
    })
}

/// Runs one of CEL's conversions (`timestamp`, `duration`) on a string.
pub(super) fn convert(function: &'static str, text: &str) -> Option<cel::Value> {
    static PROGRAMS: OnceLock<HashMap<&'static str, Program>> = OnceLock::new();
    let programs = PROGRAMS.get_or_init(|| {
        let compiled =
            ["timestamp", "duration"].map(|name| (name, env().compile(&format!("{name}(v)"))));
        compiled
            .into_iter()
            .filter_map(|(name, program)| Some((name, program.ok()?)))
            .collect()
    });
    let mut context = Context::with_env(Arc::clone(env()));
    context.add_variable_from_value("v", text.to_owned());
    programs.get(function)?.execute(&context).ok()
}

fn program(
    source: &str,
    cache: &mut HashMap<String, Arc<Program>>,
) -> Result<Arc<Program>, String> {
    if let Some(program) = cache.get(source) {
        return Ok(Arc::clone(program));
    }
    let program = env().compile(source).map_err(|e| e.to_string())?;
    let program = Arc::new(program);
    cache.insert(source.to_owned(), Arc::clone(&program));
    Ok(program)
}

impl Rule {
    /// Compiles an entry of `x-kubernetes-validations` at `path`.
    pub(super) fn compile(
        rule: &Value,
        path: &str,
        cache: &mut HashMap<String, Arc<Program>>,
    ) -> Result<Self, FieldError> {
        let compile = |key: &str, cache: &mut HashMap<String, Arc<Program>>| {
            let source = rule[key].as_str().unwrap_or_default().trim();
            program(source, cache).map_err(|why| {
                FieldError::invalid(
                    format!("{path}.{key}"),
                    &rule[key],
                    &format!("compilation failed: {why}"),
                )
            })
        };
        if rule["rule"].as_str().unwrap_or_default().trim().is_empty() {
            return Err(FieldError::required(
                format!("{path}.rule"),
                "rule is not specified",
            ));
        }
        let compiled = compile("rule", cache)?;
        let transition = compiled.references().has_variable("oldSelf");
        let message_program = match rule["messageExpression"].as_str() {
            Some(text) if !text.trim().is_empty() => Some(compile("messageExpression", cache)?),
            _ => None,
        };
        Ok(Self {
            source: rule["rule"].as_str().unwrap_or_default().trim().into(),
            program: compiled,
            message: rule["message"].as_str().map(Into::into),
            message_program,
            reason: match rule["reason"].as_str() {
                Some("FieldValueForbidden") => Reason::Forbidden,
                Some("FieldValueRequired") => Reason::Required,
                Some("FieldValueDuplicate") => Reason::Duplicate,
                _ => Reason::Invalid,
            },
            field_path: rule["fieldPath"].as_str().map(Into::into),
            transition,
            optional_old: rule["optionalOldSelf"] == true,
        })
    }

    fn error(&self, node: &Node, path: &str, context: &Context<'_, '_>) -> FieldError {
        let field = match &self.field_path {
            Some(tail) => format!("{path}{tail}").trim_start_matches('.').to_owned(),
            None if path.is_empty() => "<nil>".to_owned(),
            None => path.to_owned(),
        };
        let text = self.text(context);
        let shown = Value::from(node.kind.as_str());
        match self.reason {
            Reason::Required => FieldError::required(field, &text),
            Reason::Forbidden => FieldError::forbidden(field, &text),
            Reason::Duplicate => FieldError::duplicate(field, &shown),
            _ => FieldError::invalid(field, &shown, &text),
        }
    }

    fn text(&self, context: &Context<'_, '_>) -> String {
        let expressed = self
            .message_program
            .as_ref()
            .and_then(|p| match p.execute(context) {
                Ok(cel::Value::String(text)) if !text.trim().is_empty() => Some(text.to_string()),
                _ => None,
            });
        expressed
            .or_else(|| self.message.as_ref().map(ToString::to_string))
            .unwrap_or_else(|| format!("failed rule: {}", self.source))
    }
}

/// Evaluates the rules of a node and of everything below it.
pub(super) fn evaluate(
    node: &Node,
    value: &Value,
    old: Option<&Value>,
    path: &mut String,
    errors: &mut Vec<FieldError>,
) {
    if value.is_null() {
        return;
    }
    if !node.rules.is_empty() && old != Some(value) {
        own_rules(node, value, old, path, errors);
    }
    let mark = path.len();
    match value {
        Value::Object(map) => {
            for (name, child) in map {
                let Some(field) = node.field(name) else {
                    continue;
                };
                if node.declares(name) {
                    if mark > 0 {
                        path.push('.');
                    }
                    path.push_str(name);
                } else {
                    path.push_str(&format!("[{name}]"));
                }
                evaluate(field, child, old.and_then(|o| o.get(name)), path, errors);
                path.truncate(mark);
            }
        }
        Value::Array(items) => {
            let Some(item) = &node.items else { return };
            for (i, child) in items.iter().enumerate() {
                path.push_str(&format!("[{i}]"));
                evaluate(item, child, same_item(node, child, old), path, errors);
                path.truncate(mark);
            }
        }
        _ => {}
    }
}

fn own_rules(
    node: &Node,
    value: &Value,
    old: Option<&Value>,
    path: &str,
    errors: &mut Vec<FieldError>,
) {
    let mut context = Context::with_env(Arc::clone(env()));
    context.add_variable_from_value("self", values::to_cel(value, Some(node)));
    if let Some(old) = old {
        context.add_variable_from_value("oldSelf", values::to_cel(old, Some(node)));
    }
    for rule in &node.rules {
        if rule.transition && old.is_none() && !rule.optional_old {
            continue;
        }
        if rule.optional_old {
            let old = old.map(|o| values::to_cel(o, Some(node)));
            if !bind_optional(&mut context, old) {
                continue;
            }
        }
        match rule.program.execute(&context) {
            Ok(cel::Value::Bool(true)) => {}
            Ok(cel::Value::Bool(false)) => errors.push(rule.error(node, path, &context)),
            Ok(other) => errors.push(failed(
                node,
                path,
                rule,
                &format!("{other:?} is not a bool"),
            )),
            Err(why) => errors.push(failed(node, path, rule, &why.to_string())),
        }
    }
}

/// Binds `oldSelf` as an optional value, for rules with `optionalOldSelf`.
fn bind_optional(context: &mut Context<'_, '_>, old: Option<cel::Value>) -> bool {
    use cel::common::types::CelOptional;
    use cel::common::value::Val;
    let inner: Option<Box<dyn Val>> = match old.map(TryInto::try_into) {
        None => None,
        Some(Ok(value)) => Some(value),
        Some(Err(_)) => return false,
    };
    context.add_variable_as_val("oldSelf", Box::new(CelOptional::from(inner)));
    true
}

/// A rule that could not be evaluated, in Kubernetes' words.
fn failed(node: &Node, path: &str, rule: &Rule, why: &str) -> FieldError {
    let field = if path.is_empty() { "<nil>" } else { path };
    let named = rule
        .message
        .as_ref()
        .map_or_else(|| format!("{:?}", rule.source), |m| m.trim().to_owned());
    let detail = format!("{why} evaluating rule: {named}");
    FieldError::invalid(field, &Value::from(node.kind.as_str()), &detail)
}
