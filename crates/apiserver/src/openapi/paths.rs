//! The paths of a document: what clients read from them is which verbs, patch types and parameters exist.

use serde_json::{Map, Value, json};

use crate::kinds::{Resource, Subresource};

const META: &str = "io.k8s.apimachinery.pkg.apis.meta.v1";

/// Adds all paths of a resource whose definition is `name`.
pub(super) fn add(resource: &Resource, name: &str, paths: &mut Map<String, Value>) {
    let base = if resource.group.is_empty() {
        format!("/api/{}", resource.version)
    } else {
        format!("/apis/{}/{}", resource.group, resource.version)
    };
    let scope = if resource.namespaced {
        "/namespaces/{namespace}"
    } else {
        ""
    };
    let collection = format!("{base}{scope}/{}", resource.plural);
    let operations = Operations { resource, name };
    paths.insert(collection.clone(), operations.collection());
    if !resource.is_stored() {
        return;
    }
    paths.insert(format!("{collection}/{{name}}"), operations.item());
    for subresource in &resource.subresources {
        let path = format!("{collection}/{{name}}/{}", subresource.name);
        paths.insert(path, operations.subresource(subresource));
    }
    if resource.namespaced {
        let all = json!({"get": operations.operation("list", "ForAllNamespaces", &format!("{name}List"), None)});
        paths.insert(format!("{base}/{}", resource.plural), all);
    }
}

struct Operations<'a> {
    resource: &'a Resource,
    name: &'a str,
}

impl Operations<'_> {
    fn collection(&self) -> Value {
        let mut out = Map::new();
        let verbs = self.resource.verbs;
        if verbs.contains(&"list") {
            out.insert(
                "get".into(),
                self.operation("list", "", &format!("{}List", self.name), None),
            );
        }
        if verbs.contains(&"create") {
            out.insert(
                "post".into(),
                self.operation("post", "", self.name, Some(self.name)),
            );
        }
        if verbs.contains(&"deletecollection") {
            out.insert(
                "delete".into(),
                self.operation("deletecollection", "", &format!("{META}.Status"), None),
            );
        }
        out.insert("parameters".into(), self.place(false));
        Value::Object(out)
    }

    fn item(&self) -> Value {
        json!({
            "get": self.operation("get", "", self.name, None),
            "put": self.operation("put", "", self.name, Some(self.name)),
            "patch": self.operation("patch", "", self.name, Some(self.name)),
            "delete": self.operation("delete", "", &format!("{META}.Status"), None),
            "parameters": self.place(true),
        })
    }

    fn subresource(&self, subresource: &Subresource) -> Value {
        let group_version = subresource.group_version.as_ref();
        let (group, version) = group_version
            .map_or((&self.resource.group, &self.resource.version), |(g, v)| {
                (g, v)
            });
        let gvk = json!({"group": group, "version": version, "kind": subresource.kind});
        let name = super::schemas::name_of(group, version, &subresource.kind)
            .unwrap_or_else(|| self.name.to_owned());
        let mut out = Map::new();
        for verb in subresource.verbs {
            let (method, action) = match *verb {
                "get" => ("get", "get"),
                "create" => ("post", "post"),
                "update" => ("put", "put"),
                "patch" => ("patch", "patch"),
                _ => continue,
            };
            let body = (method != "get").then_some(name.as_str());
            let mut operation = self.operation(action, &capital(&subresource.name), &name, body);
            operation["x-kubernetes-group-version-kind"] = gvk.clone();
            out.insert(method.into(), operation);
        }
        out.insert("parameters".into(), self.place(true));
        Value::Object(out)
    }

    /// One operation; `suffix` makes its id unique.
    fn operation(&self, action: &str, suffix: &str, answer: &str, body: Option<&str>) -> Value {
        let r = self.resource;
        let scope = if r.namespaced && suffix != "ForAllNamespaces" {
            "Namespaced"
        } else {
            ""
        };
        let group = r
            .group
            .split('.')
            .next()
            .filter(|g| !g.is_empty())
            .unwrap_or("core");
        let id = format!(
            "{}{}{}{scope}{}{suffix}",
            verb(action),
            capital(group),
            capital(&r.version),
            r.kind
        );
        let mut out = json!({
            "description": format!("{} {}", describe(action), r.kind),
            "operationId": id,
            "tags": [format!("{group}_{}", r.version)],
            "parameters": parameters(action),
            "responses": {
                "200": {"description": "OK", "content": content(&ANSWERS, answer)},
                "401": {"description": "Unauthorized"},
            },
            "x-kubernetes-action": action,
            "x-kubernetes-group-version-kind": {"group": r.group, "version": r.version, "kind": r.kind},
        });
        if let Some(body) = body {
            out["requestBody"] = if action == "patch" {
                json!({"required": true, "content": content(self.patch_types(), &format!("{META}.Patch"))})
            } else {
                json!({"required": true, "content": content(&["*/*"], body)})
            };
        }
        out
    }

    fn patch_types(&self) -> &'static [&'static str] {
        const BUILTIN: &[&str] = &[
            "application/apply-patch+yaml",
            "application/json-patch+json",
            "application/merge-patch+json",
            "application/strategic-merge-patch+json",
        ];
        const CUSTOM: &[&str] = &[
            "application/apply-patch+yaml",
            "application/json-patch+json",
            "application/merge-patch+json",
        ];
        if self.resource.custom.is_some() {
            CUSTOM
        } else {
            BUILTIN
        }
    }

    /// The parameters of the path itself.
    fn place(&self, named: bool) -> Value {
        let mut out = Vec::new();
        if named {
            out.push(json!({"name": "name", "in": "path", "required": true, "description": format!("name of the {}", self.resource.kind), "schema": {"type": "string", "uniqueItems": true}}));
        }
        if self.resource.namespaced {
            out.push(json!({"name": "namespace", "in": "path", "required": true, "description": "object name and auth scope, such as for teams and projects", "schema": {"type": "string", "uniqueItems": true}}));
        }
        out.push(query("pretty", "string"));
        Value::Array(out)
    }
}

const ANSWERS: [&str; 2] = ["application/json", "application/yaml"];

fn content(types: &[&str], definition: &str) -> Value {
    let schema = json!({"schema": {"$ref": format!("#/components/schemas/{definition}")}});
    types
        .iter()
        .map(|t| ((*t).to_owned(), schema.clone()))
        .collect::<Map<_, _>>()
        .into()
}

fn query(name: &str, kind: &str) -> Value {
    json!({"name": name, "in": "query", "schema": {"type": kind, "uniqueItems": true}})
}

/// The query parameters of an action.
fn parameters(action: &str) -> Value {
    const LIST: &[(&str, &str)] = &[
        ("allowWatchBookmarks", "boolean"),
        ("continue", "string"),
        ("fieldSelector", "string"),
        ("labelSelector", "string"),
        ("limit", "integer"),
        ("resourceVersion", "string"),
        ("resourceVersionMatch", "string"),
        ("sendInitialEvents", "boolean"),
        ("timeoutSeconds", "integer"),
        ("watch", "boolean"),
    ];
    const WRITE: &[(&str, &str)] = &[
        ("dryRun", "string"),
        ("fieldManager", "string"),
        ("fieldValidation", "string"),
    ];
    const PATCH: &[(&str, &str)] = &[
        ("dryRun", "string"),
        ("fieldManager", "string"),
        ("fieldValidation", "string"),
        ("force", "boolean"),
    ];
    const DELETE: &[(&str, &str)] = &[
        ("dryRun", "string"),
        ("gracePeriodSeconds", "integer"),
        ("orphanDependents", "boolean"),
        ("propagationPolicy", "string"),
    ];
    let list = match action {
        "list" | "deletecollection" => LIST,
        "post" | "put" => WRITE,
        "patch" => PATCH,
        "delete" => DELETE,
        _ => &[],
    };
    list.iter().map(|(name, kind)| query(name, kind)).collect()
}

fn verb(action: &str) -> &str {
    match action {
        "get" => "read",
        "post" => "create",
        "put" => "replace",
        "deletecollection" => "deleteCollection",
        other => other,
    }
}

fn describe(action: &str) -> &str {
    match action {
        "get" => "read the specified",
        "list" => "list or watch objects of kind",
        "post" => "create a",
        "put" => "replace the specified",
        "patch" => "partially update the specified",
        "deletecollection" => "delete collection of",
        _ => "delete a",
    }
}

fn capital(text: &str) -> String {
    let mut chars = text.chars();
    chars
        .next()
        .map_or_else(String::new, |c| c.to_uppercase().chain(chars).collect())
}
