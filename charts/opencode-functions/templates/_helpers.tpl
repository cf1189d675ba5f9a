{{- /* The name follows from the content: a change of a setting is a new revision of every function. */}}
{{- define "ocf.configName" -}}
ocf-config-{{ toJson .Values.config | sha256sum | trunc 10 }}
{{- end }}
