use super::*;
use crate::documents::DocumentVersion;
use crate::ids::{ShardCount, WarehouseId};

fn documents(all: &[(DocumentKind, &str, &str)]) -> Documents {
    let document = |(kind, name, body): &(DocumentKind, &str, &str)| {
        let body = Some(Secret::new(*body));
        let document = Document { version: DocumentVersion(1), body, by: String::new(), at_ms: 0 };
        (DocumentKey::new(*kind, *name).expect("a name"), document)
    };
    all.iter().map(document).collect()
}

fn checked(all: &[(DocumentKind, &str, &str)]) -> Result<(), String> {
    let etl = GroupName::new("etl").expect("valid");
    let warehouse = Warehouse {
        id: WarehouseId(uuid::Uuid::nil()),
        shards: ShardCount::new(2).expect("valid"),
        objects_url: String::new(),
        cluster_secret: Secret::new(""),
        engine_admin_password: Secret::new(""),
        users: vec![crate::records::User { name: "admin".to_owned(), password_sha256_hex: Secret::new("") }],
    };
    check(&documents(all), &warehouse, &BTreeMap::from([(etl.clone(), Group { name: etl })]))
}

fn user(more: &str) -> String {
    format!("{{\"password_sha256\":\"{}\"{more}}}", "a".repeat(64))
}

#[test]
fn rights_add_up_over_people_and_roles() {
    let ada = user(",\"roles\":[\"r1\"],\"profile\":\"small\"");
    let all = [
        (DocumentKind::User, "ada", ada.as_str()),
        (DocumentKind::Role, "r1", r#"{"grants":[{"database":"sales","access":["insert"]}]}"#),
        (
            DocumentKind::Role,
            "r2",
            r#"{"grants":[{"database":"sales","table":"t","access":["select"],"rows":"a = 1"}]}"#,
        ),
        (DocumentKind::People, "analysts", r#"{"members":["ada"],"roles":["r2"]}"#),
        (DocumentKind::Profile, "small", r#"{"max_threads":2,"use_query_cache":true}"#),
        (DocumentKind::Engine, "warehouse", r#"{"profile":{"max_block_size":1000,"max_threads":1}}"#),
        (DocumentKind::Engine, "group/etl", r#"{"profile":{"max_block_size":2000}}"#),
    ];
    assert_eq!(checked(&all), Ok(()));
    let access = resolve(&documents(&all), &GroupName::new("etl").expect("valid"));
    let [ada] = &access.users[..] else { panic!("{access:?}") };
    assert_eq!(ada.grants.len(), 2);
    assert_eq!(ada.grants[1].rows.as_deref(), Some("a = 1"));
    assert_eq!((ada.settings["max_threads"].as_str(), ada.settings["use_query_cache"].as_str()), ("2", "1"));
    assert_eq!(access.settings["max_block_size"], "2000", "the group's own stands above the warehouse's");
    assert!(!format!("{access:?}").contains(&"a".repeat(64)), "hashes are not shown");
}

#[test]
fn what_makes_no_sense_is_refused_with_its_document_and_a_remedy() {
    let grant = |grant: &str| format!("{{\"grants\":[{grant}]}}");
    let cases = [
        (DocumentKind::User, "ada", r#"{"password_sha256":"hunter2"}"#.to_owned(), "never the password"),
        (DocumentKind::User, "ada", r#"{"password":"hunter2"}"#.to_owned(), "not valid"),
        (DocumentKind::User, "admin", user(""), "taken"),
        (DocumentKind::User, "a.b", user(""), "name"),
        (DocumentKind::User, "ada", user(",\"roles\":[\"nope\"]"), "no role"),
        (DocumentKind::User, "ada", user(",\"networks\":[\"10.0.0.0/33\"]"), "network"),
        (DocumentKind::People, "p", r#"{"members":["nobody"],"roles":[]}"#.to_owned(), "no user"),
        (DocumentKind::Role, "r", grant(r#"{"database":"shard_1","access":["select"]}"#), "own"),
        (DocumentKind::Role, "r", grant(r#"{"database":"d","access":[]}"#), "access"),
        (DocumentKind::Role, "r", grant(r#"{"database":"d","access":["select"],"rows":"1"}"#), "table"),
        (DocumentKind::Role, "r", grant(r#"{"database":"d","table":"2024","access":["select"],"rows":"1"}"#), "digit"),
        (DocumentKind::Role, "r", grant(r#"{"database":"d","access":["drop"]}"#), "not valid"),
        (DocumentKind::Profile, "p", r#"{"distributed_foreground_insert":0}"#.to_owned(), "own"),
        (DocumentKind::Engine, "group/nope", "{}".to_owned(), "group"),
        (DocumentKind::Quota, "q", r#"{"interval_s":0}"#.to_owned(), "interval_s"),
    ];
    for (kind, name, body, word) in cases {
        let refused = checked(&[(kind, name, &body)]).expect_err(&body);
        assert!(refused.contains(word) && refused.contains(name), "{refused}");
        assert!(!refused.contains("hunter2"), "{refused}");
    }
}
