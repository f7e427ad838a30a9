use super::*;
use serde_json::json;

fn compiled(schema: Value) -> Schema {
    Schema::compile(&schema, "schema").expect("compiles")
}

fn errors(schema: Value, object: &Value) -> Vec<String> {
    compiled(schema)
        .validate(object, None)
        .iter()
        .map(ToString::to_string)
        .collect()
}

fn spec(properties: Value) -> Value {
    json!({"type": "object", "properties": {"spec": {"type": "object", "properties": properties}}})
}

#[test]
fn pruning_names_what_it_removed() {
    let schema = compiled(spec(
        json!({"a": {"type": "string"}, "list": {"type": "array", "items": {"type": "object", "properties": {"b": {"type": "integer"}}}},
        "free": {"type": "object", "x-kubernetes-preserve-unknown-fields": true}, "map": {"type": "object", "additionalProperties": {"type": "string"}}}),
    ));
    let mut object = json!({"apiVersion": "v1", "kind": "K", "metadata": {"name": "n"}, "extra": 1,
        "spec": {"a": "x", "z": 1, "list": [{"b": 1, "c": 2}], "free": {"any": {"thing": 1}}, "map": {"k": "v"}}});
    assert_eq!(
        schema.prune(&mut object),
        ["extra", "spec.z", "spec.list[0].c"]
    );
    assert_eq!(
        object["spec"],
        json!({"a": "x", "list": [{"b": 1}], "free": {"any": {"thing": 1}}, "map": {"k": "v"}})
    );
    assert_eq!(object["metadata"]["name"], "n");
}

#[test]
fn defaults_fill_what_is_absent_and_replace_nulls() {
    let schema = compiled(spec(
        json!({"a": {"type": "string", "default": "x"}, "b": {"type": "integer", "default": 3},
        "o": {"type": "object", "default": {}, "properties": {"c": {"type": "boolean", "default": true}}}}),
    ));
    let mut object = json!({"spec": {"b": null}});
    schema.fill_defaults(&mut object);
    assert_eq!(
        object,
        json!({"spec": {"a": "x", "b": 3, "o": {"c": true}}})
    );
}

#[test]
fn messages_are_those_of_the_openapi_validator() {
    let schema = json!({"type": "object", "properties": {"spec": {"type": "object", "required": ["name"], "properties": {
        "name": {"type": "string"}, "n": {"type": "integer", "minimum": 1, "maximum": 5},
        "e": {"type": "string", "enum": ["A", "B"]}, "s": {"type": "string", "minLength": 2, "maxLength": 3, "pattern": "^a"},
        "t": {"type": "string"}, "l": {"type": "array", "maxItems": 1, "items": {"type": "string"}}}}}});
    assert_eq!(
        errors(
            schema,
            &json!({"spec": {"n": 9, "e": "C", "s": "b", "t": 4, "l": ["a", "b"]}})
        ),
        [
            "spec.name: Required value",
            "spec.n: Invalid value: 9: spec.n in body should be less than or equal to 5",
            "spec.e: Unsupported value: \"C\": supported values: \"A\", \"B\"",
            "spec.s: Invalid value: \"b\": spec.s in body should be at least 2 chars long",
            "spec.s: Invalid value: \"b\": spec.s in body should match '^a'",
            "spec.t: Invalid value: \"integer\": spec.t in body must be of type string: \"integer\"",
            "spec.l: Too many: 2: must have at most 1 items",
        ]
    );
}

#[test]
fn exactly_one_alternative_must_hold() {
    let schema = spec(
        json!({"m": {"type": "object", "properties": {"a": {"type": "string"}, "b": {"type": "string"}},
        "oneOf": [{"required": ["a"]}, {"required": ["b"]}]}}),
    );
    assert_eq!(
        errors(schema.clone(), &json!({"spec": {"m": {"a": "1"}}})),
        Vec::<String>::new()
    );
    assert!(
        errors(schema.clone(), &json!({"spec": {"m": {}}}))[0]
            .contains("must validate one and only one schema (oneOf). Found none valid")
    );
    assert!(
        errors(schema, &json!({"spec": {"m": {"a": "1", "b": "2"}}}))[0]
            .contains("Found 2 valid alternatives")
    );
}

#[test]
fn lists_with_keys_refuse_duplicates() {
    let schema = spec(
        json!({"l": {"type": "array", "x-kubernetes-list-type": "map", "x-kubernetes-list-map-keys": ["name"],
        "items": {"type": "object", "properties": {"name": {"type": "string"}}}}}),
    );
    assert_eq!(
        errors(
            schema,
            &json!({"spec": {"l": [{"name": "a"}, {"name": "a"}]}})
        ),
        ["spec.l[1]: Duplicate value: {\"name\":\"a\"}"]
    );
}

#[test]
fn rules_see_self_and_old_self() {
    let rule = |rule: &str| {
        json!({"type": "object", "properties": {"spec": {"type": "object",
        "properties": {"n": {"type": "integer"}, "namespace": {"type": "string"}},
        "x-kubernetes-validations": [{"rule": rule, "message": "no"}]}}})
    };
    let run = |text: &str, new: Value, old: Option<Value>| {
        let schema = compiled(rule(text));
        let found = schema.validate(
            &json!({"spec": new}),
            old.map(|o| json!({"spec": o})).as_ref(),
        );
        found.iter().map(ToString::to_string).collect::<Vec<_>>()
    };
    assert_eq!(
        run("self.n > 2", json!({"n": 3}), None),
        Vec::<String>::new()
    );
    assert_eq!(
        run("self.n > 2", json!({"n": 1}), None),
        ["spec: Invalid value: \"object\": no"]
    );
    assert_eq!(
        run("self.n >= oldSelf.n", json!({"n": 1}), None),
        Vec::<String>::new()
    );
    assert_eq!(
        run(
            "self.n >= oldSelf.n",
            json!({"n": 1}),
            Some(json!({"n": 2}))
        )
        .len(),
        1
    );
    assert_eq!(
        run("self.__namespace__ == 'x'", json!({"namespace": "x"}), None),
        Vec::<String>::new()
    );
    assert_eq!(run("!has(self.n)", json!({"n": 1}), None).len(), 1);
}

#[test]
fn kubernetes_functions_are_known_to_rules() {
    let run = |text: &str, value: &str| {
        let schema =
            spec(json!({"v": {"type": "string", "x-kubernetes-validations": [{"rule": text}]}}));
        errors(schema, &json!({"spec": {"v": value}}))
    };
    let good: &[(&str, &str)] = &[
        ("url(self).getScheme() in ['http', 'https']", "https://x/y"),
        ("!isURL(self)", "x y"),
        ("isIP(self) && ip(self).family() == 4", "10.0.0.1"),
        ("cidr('10.0.0.0/8').containsIP(self)", "10.1.1.1"),
        ("!cidr('10.0.0.0/8').containsIP(ip(self))", "11.1.1.1"),
        ("self.find('[0-9]+') == '12'", "a12b3"),
        ("self.findAll('[0-9]+').size() == 2", "a12b3"),
        ("quantity(self).isGreaterThan(quantity('1Gi'))", "2Gi"),
        ("duration(self) >= duration('1ms')", "1s"),
        (
            "!format.dns1123Label().validate(self).hasValue()",
            "good-name",
        ),
        (
            "format.dns1123Label().validate(self).hasValue()",
            "Bad Name",
        ),
        (
            "[3, 1, 2].max() == 3 && [1, 2].sum() == 3 && [1, 2].isSorted()",
            "x",
        ),
        (
            "self.split('/')[0].size() < 5 && self.lowerAscii() == 'ab/c'",
            "AB/c",
        ),
        (
            "self.substring(0, 1) == 'a' && self.indexOf('b') == 1",
            "ab",
        ),
    ];
    for (rule, value) in good {
        assert_eq!(run(rule, value), Vec::<String>::new(), "{rule}");
    }
    assert!(
        run("url(self).getScheme() == ''", "not a url")[0].contains("evaluating rule: \"url(self)")
    );
}

#[test]
fn a_message_can_be_an_expression_and_a_path_can_point_deeper() {
    let schema = json!({"type": "object", "properties": {"spec": {"type": "object", "properties": {"n": {"type": "integer"}},
        "x-kubernetes-validations": [{"rule": "self.n < 3", "messageExpression": "'got ' + string(self.n)", "fieldPath": ".n", "reason": "FieldValueForbidden"}]}}});
    assert_eq!(
        errors(schema, &json!({"spec": {"n": 4}})),
        ["spec.n: Forbidden: got 4"]
    );
}

#[test]
fn what_did_not_change_is_not_checked_again() {
    let schema = compiled(spec(
        json!({"s": {"type": "string", "maxLength": 1}, "t": {"type": "string"}}),
    ));
    let old = json!({"spec": {"s": "too long", "t": "a"}});
    assert!(
        schema
            .validate(&json!({"spec": {"s": "too long", "t": "b"}}), Some(&old))
            .is_empty()
    );
    assert_eq!(
        schema
            .validate(&json!({"spec": {"s": "longer", "t": "b"}}), Some(&old))
            .len(),
        1
    );
}

#[test]
fn a_schema_without_types_or_with_a_bad_rule_is_refused() {
    let errors = Schema::compile(
        &json!({"type": "object", "properties": {"a": {}, "b": {"type": "strange"},
        "c": {"type": "string", "x-kubernetes-validations": [{"rule": "self ="}]}}}),
        "s",
    )
    .expect_err("refused");
    let texts: Vec<String> = errors.iter().map(ToString::to_string).collect();
    assert!(
        texts[0].starts_with(
            "s.properties[a].type: Required value: must not be empty for specified object fields"
        ),
        "{texts:?}"
    );
    assert!(
        texts[1].starts_with("s.properties[b].type: Unsupported value: \"strange\""),
        "{texts:?}"
    );
    assert!(texts[2].starts_with("s.properties[c].x-kubernetes-validations[0].rule: Invalid value: \"self =\": compilation failed"), "{texts:?}");
}
