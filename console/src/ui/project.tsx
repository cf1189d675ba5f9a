import { type ReactNode, useState } from "react";
import { href, replace, useRoute } from "../router";

/** The project that the address names; undefined: the caller's own. */
export function useProject(): string | undefined {
  return useRoute().query.get("project") || undefined;
}

/** Which project a page is about: taken over when it is typed out. */
export function ProjectField(): ReactNode {
  const { path } = useRoute();
  const project = useProject();
  const [text, setText] = useState(project ?? "");
  const take = (): void => replace(href(`/${path.join("/")}`, { project: text.trim() }));
  return (
    <input
      className="project"
      aria-label="Project"
      placeholder="default project"
      spellCheck={false}
      value={text}
      onChange={(event) => setText(event.target.value)}
      onBlur={take}
      onKeyDown={(event) => {
        if (event.key === "Enter") take();
      }}
    />
  );
}
