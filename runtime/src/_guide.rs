#![cfg_attr(not(doctest), doc = include_str!("../guide/links.rustdoc"))]
#![doc = include_str!("../guide/README.md")]

/// A page is a module without items. Of two definitions of a link Markdown takes the first: here that of the
/// `.rustdoc` files, to items and to the pictures themselves, and where the page is read by itself its own, to files.
macro_rules! pages {
    ($($page:ident)*) => {$(
        #[cfg_attr(not(doctest), doc = include_str!("../guide/links.rustdoc"))]
        #[cfg_attr(not(doctest), doc = include_str!("../guide/pictures.rustdoc"))]
        #[doc = include_str!(concat!("../guide/", stringify!($page), ".md"))]
        pub mod $page {}
    )*};
}

pages! {
    start choose web
    versioned counter find_or_create guarded lockable
    transactions locks
    queue worker periodic idempotent
    fan_out lanes schema
    testing first_errors observability operations scale promises alternatives
}
