import { StrictMode } from "react";
import { createRoot } from "react-dom/client";
import "./styles/tokens.css";
import "./styles/base.css";
import "./styles/parts.css";
import "./styles/forms.css";
import "./styles/overlays.css";
import "./styles/shell.css";
import "./styles/cards.css";
import "./styles/submit.css";
import "./styles/execution.css";
import "./styles/toolbar.css";
import "./styles/transcript.css";
import "./styles/tool.css";
import "./styles/sidebar.css";
import "./styles/diff.css";
import "./styles/player.css";
import "./styles/compare.css";
import "./styles/usage.css";
import { App } from "./app";

const root = document.getElementById("root");
if (root) {
  createRoot(root).render(
    <StrictMode>
      <App />
    </StrictMode>,
  );
}
