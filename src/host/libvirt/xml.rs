//! The live XML of a domain (<https://libvirt.org/formatdomain.html>).
//!
//! It is the operator's, apart from names that tenants choose; it is bounded all the same.

use std::path::PathBuf;

use roxmltree::{Document, Node};

use super::{Disk, Domain, Layer, Place};
use crate::error::{Error, Result};

/// The longest XML of a domain that is read, in bytes. Those of Nova have some 10 KiB.
const LONGEST: usize = 4 << 20;
/// The longest chain of a disk that is followed, as QEMU's own limit of 200 images.
const DEEPEST: usize = 200;

/// Reads a domain's XML.
pub fn domain(text: &str) -> Result<Domain> {
    if text.len() > LONGEST {
        return Err(Error::corrupt(format!("domain XML: {} bytes, more than {LONGEST}", text.len())));
    }
    let document = Document::parse(text).map_err(|e| Error::corrupt(format!("domain XML: {e}")))?;
    let root = document.root_element();
    if !root.has_tag_name("domain") {
        return Err(Error::corrupt(format!("domain XML: the root is <{}>", root.tag_name().name())));
    }
    let wanted = |name: &str| {
        text_of(root, name).ok_or_else(|| Error::corrupt(format!("domain XML: it has no <{name}>")))
    };
    let nova = root.descendants().find(|n| n.is_element() && is_nova(*n, "instance"));
    let labels: Vec<Node<'_, '_>> = root.children().filter(|n| n.has_tag_name("seclabel")).collect();
    Ok(Domain {
        id: root.attribute("id").and_then(|id| id.parse().ok()),
        name: wanted("name")?,
        uuid: wanted("uuid")?.to_ascii_lowercase(),
        server: nova.and_then(|n| nova_text(n, "name")),
        project: nova.and_then(|n| nova_text(n, "project")),
        user: nova.and_then(|n| nova_text(n, "user")),
        flavor: nova.and_then(|n| {
            n.descendants().find(|n| is_nova(*n, "flavor"))?.attribute("name").map(str::to_owned)
        }),
        created: nova
            .and_then(|n| nova_text(n, "creationTime"))
            .map(|time| format!("{}Z", time.trim().replacen(' ', "T", 1))),
        ports: nova.map(addresses).unwrap_or_default(),
        disks: root
            .children()
            .filter(|n| n.has_tag_name("devices"))
            .flat_map(|n| n.children())
            .filter(|n| n.has_tag_name("disk"))
            .map(disk)
            .collect(),
        owner: labels
            .iter()
            .filter(|n| n.attribute("model") == Some("dac"))
            .find_map(|n| owner(&text_of(*n, "label")?)),
        labels: labels.iter().filter_map(|n| n.attribute("model")).map(str::to_owned).collect(),
    })
}

/// The socket of a backup job, from the XML that `backup-dumpxml` gives.
pub fn backup_socket(text: &str) -> Option<PathBuf> {
    if text.len() > LONGEST {
        return None;
    }
    let document = Document::parse(text).ok()?;
    let server = document.root_element().children().find(|n| n.has_tag_name("server"))?;
    server.attribute("socket").map(PathBuf::from)
}

/// `+64055:+64055`: numbers with the sign that keeps libvirt from taking them for names.
fn owner(label: &str) -> Option<(u32, u32)> {
    let (user, group) = label.split_once(':')?;
    let number = |text: &str| text.trim().trim_start_matches('+').parse().ok();
    Some((number(user)?, number(group)?))
}

fn is_nova(node: Node<'_, '_>, name: &str) -> bool {
    node.tag_name().name() == name
        && node
            .tag_name()
            .namespace()
            .is_some_and(|ns| ns.starts_with("http://openstack.org/xmlns/libvirt/nova/"))
}

fn nova_text(instance: Node<'_, '_>, name: &str) -> Option<String> {
    instance.descendants().find(|n| is_nova(*n, name))?.text().map(str::to_owned)
}

fn addresses(instance: Node<'_, '_>) -> Vec<String> {
    let ips = instance.descendants().filter(|n| is_nova(*n, "ip"));
    ips.filter_map(|ip| ip.attribute("address")).map(str::to_owned).collect()
}

fn text_of(node: Node<'_, '_>, name: &str) -> Option<String> {
    node.children().find(|n| n.has_tag_name(name))?.text().map(|text| text.trim().to_owned())
}

fn child<'a, 'i>(node: Node<'a, 'i>, name: &str) -> Option<Node<'a, 'i>> {
    node.children().find(|n| n.has_tag_name(name))
}

fn disk(node: Node<'_, '_>) -> Disk {
    let mut chain = Vec::new();
    let format = child(node, "driver").and_then(|n| n.attribute("type"));
    // An empty drive has no source.
    if let Some(source) = child(node, "source") {
        chain.push(layer(source, node.attribute("type"), format));
    }
    let mut at = child(node, "backingStore");
    while let Some(store) = at {
        let Some(source) = child(store, "source") else { break };
        if chain.len() >= DEEPEST {
            break;
        }
        let format = child(store, "format").and_then(|n| n.attribute("type"));
        chain.push(layer(source, store.attribute("type"), format));
        at = child(store, "backingStore");
    }
    Disk {
        target: child(node, "target").and_then(|n| n.attribute("dev")).unwrap_or_default().to_owned(),
        device: node.attribute("device").unwrap_or("disk").to_owned(),
        readonly: child(node, "readonly").is_some(),
        mirrored: child(node, "mirror").is_some(),
        chain,
    }
}

fn layer(source: Node<'_, '_>, kind: Option<&str>, format: Option<&str>) -> Layer {
    let place = match kind.unwrap_or("file") {
        "file" => source.attribute("file").map(|path| Place::File(path.into())),
        "block" => source.attribute("dev").map(|path| Place::Block(path.into())),
        "network" => source.attribute("protocol").map(|protocol| {
            Place::Network(format!("{protocol}:{}", source.attribute("name").unwrap_or_default()))
        }),
        _ => None,
    };
    Layer {
        format: format.map(str::to_owned),
        place: place.unwrap_or_else(|| Place::Other(kind.unwrap_or("unknown").to_owned())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Cut from `virsh dumpxml` of libvirt 9.0; the rbd disk as Nova with Cinder and Ceph writes it.
    const LIVE: &str = r#"<domain type='qemu' id='1'>
  <name>instance-0000c01d</name>
  <uuid>C01DC01D-2b7d-4a54-9d3c-0f5e7a1bc01d</uuid>
  <metadata><nova:instance xmlns:nova="http://openstack.org/xmlns/libvirt/nova/1.1">
    <nova:name>web-1</nova:name>
    <nova:owner><nova:user uuid="0f">alice</nova:user><nova:project uuid="a1">demo</nova:project></nova:owner>
  </nova:instance></metadata>
  <devices>
    <disk type='file' device='disk'>
      <driver name='qemu' type='qcow2' cache='none'/>
      <source file='/i/c01d/disk' index='2'/>
      <backingStore type='file' index='3'><format type='raw'/><source file='/i/_base/abd9'/><backingStore/></backingStore>
      <target dev='vda' bus='virtio'/>
    </disk>
    <disk type='network' device='disk'>
      <driver name='qemu' type='raw'/>
      <source protocol='rbd' name='volumes/volume-1'><host name='10.0.0.1' port='6789'/></source>
      <mirror type='file'/><target dev='vdb' bus='virtio'/>
    </disk>
    <disk type='file' device='cdrom'>
      <driver name='qemu' type='raw'/><source file='/i/c01d/disk.config'/><backingStore/>
      <target dev='hda' bus='ide'/><readonly/>
    </disk>
    <disk type='file' device='cdrom'><target dev='hdb'/><readonly/></disk>
  </devices>
  <seclabel type='dynamic' model='dac' relabel='yes'><label>+64055:+64056</label></seclabel>
</domain>"#;

    #[test]
    fn a_live_domain() {
        let domain = domain(LIVE).unwrap();
        assert_eq!(domain.id, Some(1));
        assert_eq!(domain.uuid, "c01dc01d-2b7d-4a54-9d3c-0f5e7a1bc01d");
        assert_eq!(domain.server.as_deref(), Some("web-1"));
        assert_eq!(domain.project.as_deref(), Some("demo"));
        assert_eq!(domain.owner, Some((64055, 64056)));
        let vda = domain.disk("vda").unwrap();
        assert!(vda.is_viewable() && !vda.mirrored);
        assert_eq!(
            vda.chain,
            [
                Layer { format: Some("qcow2".into()), place: Place::File("/i/c01d/disk".into()) },
                Layer { format: Some("raw".into()), place: Place::File("/i/_base/abd9".into()) },
            ]
        );
        let vdb = domain.disk("vdb").unwrap();
        assert!(vdb.mirrored);
        assert_eq!(vdb.chain[0].place, Place::Network("rbd:volumes/volume-1".into()));
        assert!(!domain.disk("hda").unwrap().is_viewable());
        assert!(domain.disk("hdb").unwrap().chain.is_empty());
    }

    #[test]
    fn what_is_no_domain_is_said() {
        assert!(domain("<domain><name>x</name></domain>").unwrap_err().to_string().contains("<uuid>"));
        assert!(domain("<volume/>").unwrap_err().to_string().contains("<volume>"));
        // Entities are not expanded: a declaration of them is refused.
        assert!(domain("<!DOCTYPE d [<!ENTITY a 'b'>]><domain>&a;</domain>").is_err());
    }

    #[test]
    fn the_socket_of_a_backup() {
        let text =
            "<domainbackup mode='pull' id='1'><server transport='unix' socket='/v/b.sock'/></domainbackup>";
        assert_eq!(backup_socket(text), Some("/v/b.sock".into()));
        assert_eq!(backup_socket("<domainbackup mode='push'/>"), None);
    }
}
