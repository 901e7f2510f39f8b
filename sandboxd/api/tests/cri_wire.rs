//! The wire definition against the table of `runtime.v1`: every rpc, field, number, type and enum value,
//! in both directions.

use std::collections::BTreeSet;

use prost_types::field_descriptor_proto::{Label, Type};
use prost_types::{DescriptorProto, EnumDescriptorProto, FieldDescriptorProto};

fn short(type_name: &str) -> String {
    type_name.trim_start_matches(".runtime.v1.").to_owned()
}

fn type_of(field: &FieldDescriptorProto, parent: &DescriptorProto) -> String {
    let repeated = field.label() == Label::Repeated;
    let scalar = match field.r#type() {
        Type::String => "string".to_owned(),
        Type::Bytes => "bytes".to_owned(),
        Type::Bool => "bool".to_owned(),
        Type::Int32 => "int32".to_owned(),
        Type::Int64 => "int64".to_owned(),
        Type::Uint32 => "uint32".to_owned(),
        Type::Uint64 => "uint64".to_owned(),
        Type::Double => "double".to_owned(),
        Type::Message | Type::Enum => {
            let name = short(field.type_name());
            let entry = name.rsplit('.').next().unwrap_or_default();
            if let Some(map) = parent.nested_type.iter().find(|m| m.name() == entry)
                && map.options.as_ref().is_some_and(|o| o.map_entry())
            {
                return format!("map<{},{}>", type_of(&map.field[0], map), type_of(&map.field[1], map));
            }
            name
        }
        other => format!("{other:?}"),
    };
    if repeated { format!("repeated {scalar}") } else { scalar }
}

fn put_enum(rows: &mut BTreeSet<String>, prefix: &str, e: &EnumDescriptorProto) {
    let name = format!("{prefix}{}", e.name());
    rows.insert(format!("enum\t{name}"));
    for v in &e.value {
        rows.insert(format!("value\t{name}\t{}\t{}", v.number(), v.name()));
    }
}

#[test]
fn definition_equals_table() {
    let dir = env!("CARGO_MANIFEST_DIR");
    let set = protox::compile(["runtime_v1.proto"], [format!("{dir}/proto")]).expect("compiles");
    let mut ours = BTreeSet::new();
    for file in &set.file {
        for service in &file.service {
            for m in &service.method {
                let stream = if m.server_streaming() { "stream " } else { "" };
                let (input, output) = (short(m.input_type()), short(m.output_type()));
                ours.insert(format!("rpc\t{}\t{}\t{input}\t{stream}{output}", service.name(), m.name()));
            }
        }
        for message in &file.message_type {
            ours.insert(format!("message\t{}", message.name()));
            for e in &message.enum_type {
                put_enum(&mut ours, &format!("{}.", message.name()), e);
            }
            for f in &message.field {
                let ty = type_of(f, message);
                ours.insert(format!("field\t{}\t{}\t{ty}\t{}", message.name(), f.number(), f.name()));
            }
        }
        for e in &file.enum_type {
            put_enum(&mut ours, "", e);
        }
    }
    let table: BTreeSet<String> =
        include_str!("cri-v1-wire.tsv").lines().filter(|l| !l.is_empty()).map(str::to_owned).collect();
    let missing: Vec<_> = table.difference(&ours).collect();
    let extra: Vec<_> = ours.difference(&table).collect();
    assert!(missing.is_empty() && extra.is_empty(), "missing: {missing:#?}\nnot in the table: {extra:#?}");
    assert_eq!(table.iter().filter(|l| l.starts_with("rpc\t")).count(), 43);
}
