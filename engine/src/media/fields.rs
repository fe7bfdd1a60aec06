//! The header fields of a file, in one place: every answer that is about a file has the same ones.

use reel_node::http::media::CORS;
use reel_proto::http::{
    content, date, disposition,
    etag::ETag,
    precondition::Validators,
    query::Query,
    response::{CONTENT_SECURITY_POLICY, write_field},
};

use crate::cache::Record;

/// What a file is compared by.
pub(super) fn validators(record: &Record) -> Validators {
    Validators {
        etag: ETag::of_file(record.path_id(), record.size()),
        last_modified: record.created_at(),
    }
}

/// The fields that a 304 and a 412 share with the answer that they stand for.
pub(super) fn write_validators(out: &mut Vec<u8>, validators: &Validators, cache_control: &str) {
    write_field(out, "ETag", validators.etag.as_bytes());
    write_field(out, "Last-Modified", date::format(validators.last_modified).as_bytes());
    write_field(out, "Cache-Control", cache_control);
}

/// What the fields of a file are made from.
pub(super) struct FileFields<'a> {
    pub(super) record: &'a Record,
    pub(super) validators: &'a Validators,
    /// The file's own type, also where the answer is multipart.
    pub(super) media_type: &'a str,
    pub(super) cache_control: &'a str,
    pub(super) query: &'a Query,
}

impl FileFields<'_> {
    /// Appends every field but the type and range of what is sent.
    pub(super) fn write(&self, out: &mut Vec<u8>) {
        write_field(out, "Accept-Ranges", "bytes");
        write_validators(out, self.validators, self.cache_control);
        write_field(out, "X-Content-Type-Options", "nosniff");
        write_field(out, "Content-Security-Policy", CONTENT_SECURITY_POLICY);
        if let Some(disposition) = self.disposition() {
            write_field(out, "Content-Disposition", disposition);
        }
        out.extend_from_slice(CORS);
    }

    /// To be saved where the request asks for it or a browser could run it; else shown, under the name it came with.
    fn disposition(&self) -> Option<String> {
        let own = self.record.name();
        match self.query.download.as_deref() {
            Some("") => Some(disposition::value(disposition::Kind::Attachment, own)),
            Some(name) => Some(disposition::value(disposition::Kind::Attachment, Some(name))),
            None if content::is_active(self.media_type) => {
                Some(disposition::value(disposition::Kind::Attachment, own))
            }
            None => own.map(|_| disposition::value(disposition::Kind::Inline, own)),
        }
    }
}
